"""Chat templates: messages to the text that a chat model was trained on, and which part of it the assistant wrote.

Templates are Jinja, as in the Hugging Face ecosystem, and run in a sandbox: they come with checkpoints, from
strangers.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.tokenizer import Tokenizer

Message = Mapping[str, Any]
Span = tuple[int, int]


class ChatTemplate:
    """Renders chats.

    Args:
        source: The template. It sees `messages`, `tools`, `add_generation_prompt`, the names of the special tokens by
            role (`bos_token`, `eos_token`, …), and the functions `raise_exception` and `strftime_now`.
        roles: Role of a special token to its name.
        special_tokens: Names of all special tokens.

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
        self._special_tokens = tuple(special_tokens)
        self._template = _compiled(source)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ChatTemplate:
        """The template of a tokenizer.

        Raises:
            TokenizerError: when it has none.
        """
        if tokenizer.chat_template is None:
            raise TokenizerError(
                "the tokenizer has no chat template; take a checkpoint that was tuned for chat, or set"
                " tokenizer.chat_template"
            )
        return cls(tokenizer.chat_template, roles=tokenizer.roles, special_tokens=tokenizer.special_tokens)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Any] | None = None,
        **variables: Any,
    ) -> str:
        """The text of a chat.

        Args:
            messages: Each with `role` and `content`, and what else the template knows.
            add_generation_prompt: End with what comes before an answer.
            tools: Descriptions of functions that the assistant may call.
            variables: Further variables of the template, such as `enable_thinking`.

        Raises:
            TokenizerError: when a message is malformed, or the template refuses the chat.
        """
        check_messages(messages)
        return self._run(messages, add_generation_prompt, tools, variables)

    def render_with_answers(
        self, messages: Sequence[Message], *, tools: Sequence[Any] | None = None, **variables: Any
    ) -> tuple[str, list[Span]]:
        """The text of a chat, and where in it stands what the assistant wrote, to be learned in training.

        If the template marks answers by `{% generation %}`, these are the places. Else an answer begins where the
        chat before it, rendered for an answer, ends; and it ends behind its content and the special token that
        follows, by which the assistant ends its turn.

        Args:
            messages: As in `render`.
            tools: As in `render`.
            variables: As in `render`.

        Returns:
            The text, and for each answer the places of its first character and of the one behind its last.

        Raises:
            TokenizerError: as in `render`, or when an answer cannot be found in the text.
        """
        check_messages(messages)
        if re.search(r"\{%-?\s*generation\s*-?%\}", self.source):
            mark = (
                f"\ufdd0{secrets.token_hex(8)}\ufdd1"  # no text holds these characters; they are for such use
            )
            marked = self._run(messages, False, tools, {**variables, _MARK: mark})
            return _unmarked(marked, mark)
        text = self._run(messages, False, tools, variables)
        spans: list[Span] = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._run(messages[:index], True, tools, variables)
            end = self._end_of_answer(text, len(before), message) if text.startswith(before) else None
            if end is None:
                raise TokenizerError(
                    f"messages[{index}]: the chat template does not render this answer behind the chat before it, so"
                    " its place is not known; mark answers in the template by {% generation %} … {% endgeneration %}"
                )
            spans.append((len(before), end))
        return text, spans

    def _end_of_answer(self, text: str, start: int, message: Message) -> int | None:
        content = message.get("content")
        words = content.strip() if isinstance(content, str) else ""
        eos = self._roles.get("eos_token", "")
        if message.get("tool_calls") or not words:
            found = text.find(eos, start) if eos else -1
            return None if found < 0 else found + len(eos)
        found = text.find(words, start)
        if found < 0:
            return None
        end = found + len(words)
        names = "|".join(map(re.escape, sorted(self._special_tokens, key=len, reverse=True)))
        turn_end = re.compile(rf"\s*(?:{names})").match(text, end) if names else None
        return end if turn_end is None else turn_end.end()

    def _run(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool,
        tools: Sequence[Any] | None,
        variables: Mapping[str, Any],
    ) -> str:
        try:
            return self._template.render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._roles,
                **variables,
            )
        except SecurityError as error:
            raise TokenizerError(f"the chat template does what is not allowed: {error}") from None
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise TokenizerError(f"the chat template cannot render these messages: {error}") from None
        except (RecursionError, MemoryError, OverflowError) as error:
            raise TokenizerError(f"the chat template asks for too much: {type(error).__name__}") from None


def encode_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], **arguments: Any
) -> tuple[list[int], list[bool]]:
    """Token ids of a chat, and which of them the assistant wrote.

    Args:
        tokenizer: A tokenizer with a chat template.
        messages: As in `ChatTemplate.render`.
        arguments: As in `ChatTemplate.render_with_answers`.

    Returns:
        The ids, and as many booleans: true where the token begins within an answer.

    Raises:
        TokenizerError: as `ChatTemplate.render_with_answers`.
    """
    text, spans = ChatTemplate.of(tokenizer).render_with_answers(messages, **arguments)
    ids, offsets = tokenizer.encode_with_offsets(text)
    return ids, [any(start <= first < end for start, end in spans) for first, _ in offsets]


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


_MARK = "_tfllm_mark"


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}`: what stands between is what the assistant wrote."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """Parses one block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        mark = nodes.ContextReference()
        return nodes.CallBlock(self.call_method("_marked", [mark]), [], [], body).set_lineno(line)

    def _marked(self, context: Any, caller: Callable[[], str]) -> str:
        mark = context.get(_MARK, "")
        return f"{mark}{caller()}{mark}"


def _unmarked(text: str, mark: str) -> tuple[str, list[Span]]:
    pieces = text.split(mark)
    spans, place = [], 0
    for index, piece in enumerate(pieces):
        if index % 2:
            spans.append((place, place + len(piece)))
        place += len(piece)
    return "".join(pieces), spans


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> Any:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except (TemplateError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        where = f"line {line}: " if line else ""
        raise TokenizerError(
            f"the chat template is not Jinja ({where}{error}); take the one of the checkpoint"
        ) from None


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    # Jinja's own filter writes `<` as `\u003c`, for web pages.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
