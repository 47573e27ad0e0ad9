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

from tfllm.tokenizers.chat.answers import AnswerFinder
from tfllm.tokenizers.chat.budget import Budget, TooMuch
from tfllm.tokenizers.chat.marks import MarkedText, Marks, Span
from tfllm.tokenizers.chat.messages import Chat, Message, short
from tfllm.tokenizers.chat.sandbox import MARK, compiled, rendered
from tfllm.tokenizers.end_of_turn import end_names, looks_like_control
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.tokenizer import Tokenizer

DEFAULT = "default"
# The template of a tokenizer that has several: for tools, and for documents.
_NAMED_FOR = {"tools": "tool_use", "documents": "rag"}


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
        finder = AnswerFinder(self._names, self._ends)
        return found, [finder.find(found, index, chat.messages[index], before) for index, before in befores]

    def _role(self, role: str) -> list[str]:
        return [self._roles[role]] if role in self._roles else []

    def _chat(self, messages: Any, tools: Any, documents: Any, variables: Mapping[str, Any]) -> Chat:
        chat = Chat.of(messages, tools, documents, variables)
        for name, given in (("tools", tools), ("documents", documents)):
            if given and name not in _variables_of(self.source):
                raise TokenizerError(
                    f"{name} are given, and the chat template has no place for them; leave {name} out, or choose a"
                    " template that uses them"
                )
        return chat

    def _run(
        self, chat: Chat, messages: list[dict[str, Any]], add_generation_prompt: bool, mark: str = ""
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
            raise TokenizerError(f"the chat template does what is not allowed: {short(error)}") from None
        except TooMuch as error:
            raise TokenizerError(f"the chat template asks for too much: {error}; take another one") from None
        except (RecursionError, MemoryError) as error:
            raise TokenizerError(
                f"the chat template asks for too much: {type(error).__name__}; take another one"
            ) from None
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise TokenizerError(f"the chat template cannot render these messages: {error}") from None


def control_names(tokenizer: Tokenizer) -> list[str]:
    """Names of the tokens that a message must not make: special ones, and those that a file forgot to call so."""
    added = (token.content for token in tokenizer.added_tokens if looks_like_control(token.content))
    return list(dict.fromkeys([*tokenizer.special_tokens, *added]))


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
