"""Chat templates: messages to the text that a chat model was trained on, and which part of it the assistant wrote.

Templates are Jinja, as in the Hugging Face ecosystem. They come with checkpoints, from strangers, and so do the
messages: `sandbox` bounds what the former do, `marks` keeps the latter from making control tokens.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2 import Template, TemplateError, meta
from jinja2.sandbox import SecurityError

from tfllm.tokenizers.chat.budget import Budget, TooMuch
from tfllm.tokenizers.chat.marks import MarkedText, Marks, Span, plain, texts_in
from tfllm.tokenizers.chat.sandbox import MARK, compiled, rendered
from tfllm.tokenizers.end_of_turn import end_names, looks_like_control
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.tokenizer import Tokenizer

Message = Mapping[str, Any]
DEFAULT = "default"
# The template of a tokenizer that has several: for tools, and for documents.
_NAMED_FOR = {"tools": "tool_use", "documents": "rag"}
# What messages call an assistant's reasoning; a template reads one of them.
_REASONING = ("reasoning_content", "thinking", "reasoning")


class ChatTemplate:
    """Renders chats.

    Args:
        source: The template. It sees `messages`, `tools`, `documents`, `add_generation_prompt`, the names of the
            special tokens by role (`bos_token`, `eos_token`, …), and the functions `raise_exception` and
            `strftime_now`.
        roles: Role of a special token to its name.
        special_tokens: Names of all control tokens.

    Raises:
        TokenizerError: when the template is not Jinja.

    Example:
        >>> template = ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
        >>> template.render([{"role": "user", "content": "Hello"}])
        'user: Hello\n'
    """

    def __init__(
        self, source: str, *, roles: Mapping[str, str] | None = None, special_tokens: Iterable[str] = ()
    ):
        self.source = source
        self._roles = dict(roles or {})
        self._names = tuple(name for name in dict.fromkeys(special_tokens) if name.strip())
        self._ends = tuple(dict.fromkeys([*self._role("eos_token"), *end_names(self._names)]))
        self._template = _compiled(source)

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, name: str | None = None, *, tools: Any = None, documents: Any = None
    ) -> ChatTemplate:
        """The template of a tokenizer; of several, the one for tools or documents where there are such.

        Args:
            tokenizer: The tokenizer.
            name: Of the template, where the tokenizer has several.
            tools: Given where the chat has tools.
            documents: Given where it has documents.

        Raises:
            TokenizerError: when it has none, or none of that name.
        """
        source = _chosen(tokenizer.chat_template, name, {"tools": tools, "documents": documents})
        control = control_names(tokenizer)
        return cls(source, roles=tokenizer.shown_roles, special_tokens=control)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        **variables: Any,
    ) -> str:
        """The text of a chat.

        Args:
            messages: Each with `role` and `content`, and what else the template knows.
            add_generation_prompt: End with what comes before an answer.
            tools: JSON schemas of functions that the assistant may call.
            documents: Texts to answer from, each with `title` and `text`.
            variables: Further variables of the template, such as `enable_thinking`.

        Raises:
            TokenizerError: when a message is malformed, the template refuses the chat, or has no place for the tools
                or documents.
        """
        chat = self._chat(messages, tools, documents, variables)
        return self._run(chat, chat.messages, add_generation_prompt)

    def render_with_answers(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        **variables: Any,
    ) -> tuple[str, list[Span]]:
        """The text of a chat, and where in it stands what the assistant wrote, to be learned in training.

        If the template marks answers by `{% generation %}`, these are the places. Else an answer begins where the
        chat before it, rendered for an answer, ends; and it ends behind its content and the special token that
        follows, by which the assistant ends its turn. Where the content stands is told by marks in it, not by its
        words.

        Args:
            messages: As in `render`.
            tools: As in `render`.
            documents: As in `render`.
            variables: As in `render`.

        Returns:
            The text, and for each answer the places of its first character and of the one behind its last.

        Raises:
            TokenizerError: as in `render`, or when an answer cannot be found in the text.
        """
        marked, spans = self.marked(messages, answers=True, tools=tools, documents=documents, **variables)
        return marked.text, spans

    def marked(
        self,
        messages: Sequence[Message],
        *,
        answers: bool = False,
        add_generation_prompt: bool = False,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        **variables: Any,
    ) -> tuple[MarkedText, list[Span]]:
        """The text of a chat with what is known of its parts, and the answers in it, if they are asked for.

        Args:
            messages: As in `render`.
            answers: Whether to look for answers, as `render_with_answers` does.
            add_generation_prompt: As in `render`.
            tools: As in `render`.
            documents: As in `render`.
            variables: As in `render`.

        Raises:
            TokenizerError: as in `render_with_answers`.
        """
        chat = self._chat(messages, tools, documents, variables)
        marks = Marks(self._names, self._ends, [self.source, *chat.texts])
        chat = dataclasses.replace(
            chat,
            messages=marks.guarded(chat.messages),
            tools=marks.guarded(chat.tools),
            documents=marks.guarded(chat.documents),
            variables=marks.wrapped(chat.variables),
        )
        if answers and re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", self.source):
            found = marks.read(self._run(chat, chat.messages, add_generation_prompt, mark=marks.answer))
            return found, list(found.answers)
        found = marks.read(self._run(chat, chat.messages, add_generation_prompt))
        if not answers:
            return found, []
        placed = marks.read(
            self._run(chat, list(map(marks.placed, chat.messages, range(len(chat.messages)))), False)
        )
        if placed.text == found.text:  # else the template looks at what a content begins or ends with
            found = placed
        befores = (
            (index, marks.read(self._run(chat, chat.messages[:index], True)).text)
            for index, message in enumerate(chat.messages)
            if message["role"] == "assistant"
        )
        return found, [self._answer(found, index, chat.messages[index], before) for index, before in befores]

    def _answer(self, chat: MarkedText, index: int, message: Message, before: str) -> Span:
        start = len(before) if chat.text.startswith(before) else chat.firsts.get(index)
        said = chat.lasts.get(index)
        content = message.get("content")
        if start is None or (
            said is None and (content or message.get("tool_calls")) and self._hidden(chat, start, index)
        ):
            raise TokenizerError(
                f"messages[{index}]: the chat template does not render this answer behind the chat before it, so"
                " its place is not known; mark answers in the template by {% generation %} … {% endgeneration %}"
            )
        end = max(start, said or 0)
        limit = min(
            (place for other, place in chat.firsts.items() if other > index and place >= end), default=None
        )
        limit = len(chat.text) if limit is None else limit
        if said is None or message.get("tool_calls"):
            return start, self._first_end(chat, end, limit) or end
        text = chat.text
        if isinstance(content, str):  # the template may keep the white space behind it
            blank = content[len(content.rstrip()) :]
            end += len(blank) if text.startswith(blank, end) else 0
        turn_end = (
            re.compile(rf"\s*(?:{_alternatives(self._names)})").match(text, end) if self._names else None
        )
        return start, end if turn_end is None else turn_end.end()

    def _hidden(self, chat: MarkedText, start: int, index: int) -> bool:
        """Whether nothing tells where an answer ends."""
        limit = min((place for other, place in chat.firsts.items() if other > index), default=len(chat.text))
        return self._first_end(chat, start, limit) is None

    def _first_end(self, chat: MarkedText, start: int, limit: int) -> int | None:
        """Where the first token ends that ends a turn and is the template's own."""
        if not self._ends:
            return None
        for found in re.compile(_alternatives(self._ends)).finditer(chat.text, start, limit):
            if chat.is_the_templates(*found.span()):
                return found.end()
        return None

    def _role(self, role: str) -> list[str]:
        return [self._roles[role]] if role in self._roles else []

    def _chat(self, messages: Any, tools: Any, documents: Any, variables: Mapping[str, Any]) -> _Chat:
        check_messages(messages)
        try:
            chat = _Chat(
                [_prepared(message) for message in messages], plain(tools), plain(documents), plain(variables)
            )
        except RecursionError:
            raise TokenizerError(
                "messages, tools and documents must not be nested so deep; flatten them"
            ) from None
        for name, given in (("tools", tools), ("documents", documents)):
            if given and (
                not isinstance(given, list | tuple) or not all(isinstance(each, Mapping) for each in given)
            ):
                raise TokenizerError(
                    f"{name}={_short(given)} must be a list of mappings, such as"
                    + (" JSON schemas of functions" if name == "tools" else " {'title': …, 'text': …}")
                )
            if given and name not in _variables_of(self.source):
                raise TokenizerError(
                    f"{name} are given, and the chat template has no place for them; leave {name} out, or choose a"
                    " template that uses them"
                )
        return chat

    def _run(
        self, chat: _Chat, messages: list[dict[str, Any]], add_generation_prompt: bool, mark: str = ""
    ) -> str:
        variables = {
            "messages": messages,
            "tools": chat.tools,
            "documents": chat.documents,
            "add_generation_prompt": add_generation_prompt,
            **self._roles,
            **chat.variables,
            MARK: mark,
        }
        try:
            return rendered(self._template, variables, Budget(len(chat.texts), sum(map(len, chat.texts))))
        except SecurityError as error:
            raise TokenizerError(f"the chat template does what is not allowed: {_short(error)}") from None
        except TooMuch as error:
            raise TokenizerError(f"the chat template asks for too much: {error}; take another one") from None
        except (RecursionError, MemoryError) as error:
            raise TokenizerError(
                f"the chat template asks for too much: {type(error).__name__}; take another one"
            ) from None
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise TokenizerError(f"the chat template cannot render these messages: {error}") from None


@dataclasses.dataclass(frozen=True)
class _Chat:
    """What goes into a template."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None
    documents: list[Any] | None
    variables: dict[str, Any]

    @functools.cached_property
    def texts(self) -> list[str]:
        return texts_in([self.messages, self.tools, self.documents, self.variables])


def encode_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], *, chat_template: str | None = None, **arguments: Any
) -> tuple[list[int], list[bool]]:
    """Token ids of a chat, and which of them the assistant wrote.

    Only the template makes control tokens: where a message writes the name of one, it stays text.

    Args:
        tokenizer: A tokenizer with a chat template.
        messages: As in `ChatTemplate.render`.
        chat_template: Name of the template, where the tokenizer has several.
        arguments: As in `ChatTemplate.render_with_answers`.

    Returns:
        The ids, and as many booleans: true where the token stands within an answer.

    Raises:
        TokenizerError: as `ChatTemplate.render_with_answers`.
    """
    template = _of(tokenizer, chat_template, arguments)
    marked, spans = template.marked(messages, answers=True, **arguments)
    ids, offsets = _encode(tokenizer, marked)
    return ids, [any(first < end and last > start for start, end in spans) for first, last in offsets]


def encode_prompt(
    tokenizer: Tokenizer, messages: Sequence[Message], *, chat_template: str | None = None, **arguments: Any
) -> list[int]:
    """Token ids of a chat up to where the assistant's answer begins; arguments as those of `encode_chat`."""
    arguments.setdefault("add_generation_prompt", True)
    return _encode(tokenizer, _of(tokenizer, chat_template, arguments).marked(messages, **arguments)[0])[0]


def control_names(tokenizer: Tokenizer) -> list[str]:
    """Names of the tokens that a message must not make: special ones, and those that a file forgot to call so."""
    added = (token.content for token in tokenizer.added_tokens if looks_like_control(token.content))
    return list(dict.fromkeys([*tokenizer.special_tokens, *added]))


def _of(tokenizer: Tokenizer, name: str | None, arguments: Mapping[str, Any]) -> ChatTemplate:
    return ChatTemplate.of(
        tokenizer, name, tools=arguments.get("tools"), documents=arguments.get("documents")
    )


def _chosen(found: str | Mapping[str, str] | None, name: str | None, given: Mapping[str, Any]) -> str:
    if found is None:
        raise TokenizerError(
            "the tokenizer has no chat template; take a checkpoint that was tuned for chat, or set"
            " tokenizer.chat_template"
        )
    named = {DEFAULT: found} if isinstance(found, str) else dict(found)
    if name is None:
        wanted = (_NAMED_FOR[what] for what, value in given.items() if value)
        name = next((each for each in wanted if each in named), DEFAULT)
    if name not in named:
        raise TokenizerError(
            f"chat_template={name!r} is not one of the tokenizer's templates; choose of"
            f" {', '.join(map(repr, sorted(named)))}"
        )
    return named[name]


def _encode(tokenizer: Tokenizer, chat: MarkedText) -> tuple[list[int], list[Span]]:
    """Ids and their places; control tokens only where the template wrote them."""
    names = control_names(tokenizer)
    known = {**{token.content: token.id for token in tokenizer.added_tokens}, **tokenizer.special_tokens}
    control = {known[name] for name in names} - {tokenizer.unk_id}
    texts: list[Span] = []
    while True:
        ids, places = _encode_around(tokenizer, chat.text, texts, control)
        wrong = [
            place
            for token_id, place in zip(ids, places, strict=True)
            if token_id in control and place not in texts and not chat.is_the_templates(*place)
        ]
        if not wrong:
            return ids, places
        texts = sorted({*texts, *wrong})


def _encode_around(
    tokenizer: Tokenizer, text: str, texts: Sequence[Span], control: set[int]
) -> tuple[list[int], list[Span]]:
    """Encodes with special tokens, but for the places that are text."""
    ids: list[int] = []
    places: list[Span] = []
    start = 0
    for first, last in [*texts, (len(text), len(text))]:
        if start < first:
            found, offsets = (
                _behind_others(tokenizer, text[start:first])
                if start
                else tokenizer.encode_with_offsets(text[:first])
            )
            ids += found
            places += [(start + a, start + b) for a, b in offsets]
        if first < last:
            found = _as_text(tokenizer, text[first:last], control, at_start=first == 0)
            ids += found
            places += [(first, last)] * len(found)
        start = last
    return ids, places


def _behind_others(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[Span]]:
    """Encodes what does not stand at the start of a text, where SentencePiece writes a blank."""
    line = tokenizer.encode("\n")
    ids, offsets = tokenizer.encode_with_offsets("\n" + text)
    if line and ids[: len(line)] == line:
        return ids[len(line) :], [(max(0, a - 1), max(0, b - 1)) for a, b in offsets[len(line) :]]
    return tokenizer.encode_with_offsets(text)


def _as_text(tokenizer: Tokenizer, text: str, control: set[int], *, at_start: bool = False) -> list[int]:
    """Encodes the name of a control token as the characters that it is."""
    line = [] if at_start else tokenizer.encode("\n")
    ids = tokenizer.encode("\n" + text) if line else tokenizer.encode(text)
    if line and ids[: len(line)] == line:
        ids = ids[len(line) :]
    elif line:
        ids = tokenizer.encode(text)
    if not control.intersection(ids) or len(text) == 1:
        return ids
    # An ordinary added token, which is cut out of every text.
    return [i for character in text for i in _as_text(tokenizer, character, set(), at_start=at_start)]


def check_messages(messages: Any) -> None:
    """Raises TokenizerError unless these are messages: a sequence of mappings with a role."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise TokenizerError(
            f"messages={_short(messages)} must be a list of {{'role': …, 'content': …}}; wrap a text as"
            " [{'role': 'user', 'content': text}]"
        )
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise TokenizerError(
                f"messages[{index}]={_short(message)} must be a mapping with a role, and content; write"
                " {'role': 'user', 'content': text}"
            )


def _prepared(message: Message) -> dict[str, Any]:
    """A message as transformers hands it to templates: without what is None, and its reasoning under each name."""
    made = {key: value for key, value in plain(message).items() if value is not None}
    reasoning = next((made[key] for key in _REASONING if key in made), None)
    return made if reasoning is None else {"thinking": reasoning, **made, "reasoning_content": reasoning}


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> Template:
    try:
        return compiled(source)
    except TooMuch as error:
        raise TokenizerError(f"the chat template asks for too much: {error}; take another one") from None
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        where = f"line {line}: " if line else ""
        raise TokenizerError(
            f"the chat template is not Jinja ({where}{error}); take the one of the checkpoint"
        ) from None


@functools.lru_cache(maxsize=16)
def _variables_of(source: str) -> frozenset[str]:
    """What a template reads."""
    environment = _compiled(source).environment
    return frozenset(meta.find_undeclared_variables(environment.parse(source)))


def _alternatives(names: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(names, key=len, reverse=True)))


def _short(value: Any) -> str:
    text = str(value) if isinstance(value, Exception) else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
