"""What goes into a chat template: messages, tools, documents and variables, as values that a stranger may be shown."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.repair import repair_text

Message = Mapping[str, Any]
# What messages call an assistant's reasoning; a template reads one of them.
_REASONING = ("reasoning_content", "thinking", "reasoning")


@dataclasses.dataclass(frozen=True)
class Chat:
    """What goes into a template."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None
    documents: list[Any] | None
    variables: dict[str, Any]

    @classmethod
    def of(cls, messages: Any, tools: Any, documents: Any, variables: Mapping[str, Any]) -> Chat:
        """Make one of what a caller gives.

        Raises:
            TokenizerError: a message, a tool or a document is malformed, or nested too deep.
        """
        check_messages(messages)
        try:
            chat = cls(
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
                    f"{name}={short(given)} must be a list of mappings, such as"
                    + (" JSON schemas of functions" if name == "tools" else " {'title': …, 'text': …}")
                )
        return chat

    @functools.cached_property
    def texts(self) -> list[str]:
        """All texts in it."""
        return texts_in([self.messages, self.tools, self.documents, self.variables])


def check_messages(messages: Any) -> None:
    """Raises TokenizerError unless these are messages: a sequence of mappings with a role."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise TokenizerError(
            f"messages={short(messages)} must be a list of {{'role': …, 'content': …}}; wrap a text as"
            " [{'role': 'user', 'content': text}]"
        )
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise TokenizerError(
                f"messages[{index}]={short(message)} must be a mapping with a role, and content; write"
                " {'role': 'user', 'content': text}"
            )


def _prepared(message: Message) -> dict[str, Any]:
    """A message as transformers hands it to templates: without what is None, and its reasoning under each name."""
    made = {key: value for key, value in plain(message).items() if value is not None}
    reasoning = next((made[key] for key in _REASONING if key in made), None)
    return made if reasoning is None else {"thinking": reasoning, **made, "reasoning_content": reasoning}


def plain(value: Any) -> Any:
    """A value as templates see it: of Python's own types, with valid texts; else only the name of its type.

    The objects of callers may have methods that a stranger's template must not call.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return repair_text(str.__str__(value))
    if isinstance(value, Mapping):
        return {plain(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a number of NumPy's
        return plain(value.item())
    return f"<{type(value).__name__}>"


def texts_in(value: Any) -> list[str]:
    """All texts in a plain value."""
    if isinstance(value, dict):
        return [text for each in (*value.keys(), *value.values()) for text in texts_in(each)]
    if isinstance(value, list):
        return [text for each in value for text in texts_in(each)]
    return [value] if isinstance(value, str) else [""]


def short(value: Any) -> str:
    """A value as errors show it."""
    text = str(value) if isinstance(value, Exception) else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
