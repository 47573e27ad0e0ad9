"""A conversation: what a record of one says, in whichever of the usual forms."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tfllm.data.errors import DataError
from tfllm.data.record import Record
from tfllm.json_text import parse_json

MESSAGES, CONVERSATIONS, PROMPT, COMPLETION, TOOLS = (
    "messages",
    "conversations",
    "prompt",
    "completion",
    "tools",
)
CHOSEN = "chosen"  # of two answers, with all that is said before it where no prompt is given
ROLES = ("system", "developer", "user", "assistant", "tool")
ASSISTANT = "assistant"
_SYSTEM = ("system", "developer")
# What the roles are called where messages are {from, value}, as ShareGPT has them.
_CALLED = {"human": "user", "gpt": ASSISTANT, "chatgpt": ASSISTANT, "model": ASSISTANT, "observation": "tool"}
_SHOWN = 80  # characters of a value that is shown


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Messages, and which of their answers are to be learned.

    Attributes:
        messages: Each with `role` and `content`, and what else its template knows.
        is_learned: Of each message, false where it says `train: false`, or `weight: 0` as OpenAI's files do.
        tools: JSON schemas of functions that the assistant may call.
    """

    messages: tuple[Mapping[str, Any], ...]
    is_learned: tuple[bool, ...]
    tools: tuple[Any, ...] = ()

    @property
    def opening(self) -> str:
        """What the user says first; without a user the first message."""
        first = next((each for each in self.messages if each["role"] == "user"), self.messages[0])
        return _text_of(first)

    @property
    def to_answer(self) -> Conversation:
        """What is said before the last answer, where it ends in one."""
        end = len(self.messages)
        while end > 1 and self.messages[end - 1]["role"] == ASSISTANT:
            end -= 1
        return dataclasses.replace(self, messages=self.messages[:end], is_learned=self.is_learned[:end])

    def shorter(self) -> Iterator[Conversation]:
        """Yields it without its first turn, without its first two, and so on, but not without its last.

        A turn is what a user says and all that follows, up to the next; the system's messages at the start stay.
        """
        start = next((at for at, each in enumerate(self.messages) if each["role"] not in _SYSTEM), 0)
        for at in range(start + 1, len(self.messages)):
            if self.messages[at]["role"] == "user":
                kept = [*range(start), *range(at, len(self.messages))]
                yield dataclasses.replace(
                    self,
                    messages=tuple(self.messages[each] for each in kept),
                    is_learned=tuple(self.is_learned[each] for each in kept),
                )

    @property
    def texts(self) -> list[str]:
        """What each message says."""
        return [_text_of(each) for each in self.messages]


def conversation_of(record: Record) -> Conversation:
    """Read the conversation of a record: columns messages; conversations; or prompt and completion; perhaps tools.

    `messages` is a list of {role, content}, or of {from, value}, or JSON of such a list. `prompt` and `completion` are
    what a user and the assistant say, or lists of messages.

    Raises:
        DataError: The columns are not there, or a message is none.
    """
    fields = record.fields
    whole = (MESSAGES, CONVERSATIONS, *(() if PROMPT in fields else (CHOSEN,)))
    name = next((each for each in whole if each in fields), None)
    if name is None and PROMPT in fields:
        answer = fields.get(COMPLETION)
        given: Sequence[Any] = [
            *_said(record, PROMPT, fields[PROMPT], "user"),
            *(() if answer is None else _said(record, COMPLETION, answer, ASSISTANT)),
        ]
        name = PROMPT
    else:
        if name is None:
            there = ", ".join(map(repr, list(fields)[:20])) or "none"
            raise DataError(
                f"{record.at}no column 'messages' or 'conversations', nor 'prompt' and 'completion'; the columns are"
                f" {there}; say which are these, e.g. {record.columns_key or 'columns'}: {{prompt: question,"
                " completion: answer}"
            )
        given = _listed(record, name, record.value(name))
    if not given:
        raise DataError(f"{record.at}{name} holds no message; leave the record out")
    messages = [_message(record, f"{name}[{index}]", each) for index, each in enumerate(given)]
    return Conversation(
        tuple(
            {key: value for key, value in each.items() if key not in ("train", "weight")} for each in messages
        ),
        tuple(_learned(record, f"{name}[{index}]", each) for index, each in enumerate(messages)),
        tuple(_listed(record, TOOLS, fields[TOOLS], "a list of functions") if fields.get(TOOLS) else ()),
    )


def first_text(record: Record, column: str) -> str:
    """Return the text of a column that says on which side of a split a record falls; of a conversation its opening.

    Raises:
        DataError: The column is not there, or holds something else.
    """
    return conversation_of(record).opening if column == MESSAGES else record.text(column)


def texts_of(record: Record, column: str) -> list[str]:
    """Return the texts of a column: one; several that are right; or those of a conversation.

    Raises:
        DataError: The column is not there, or holds something else.
    """
    if column == MESSAGES:
        return conversation_of(record).texts
    value = record.value(column)
    return value if isinstance(value, list) else [record.text(column)]


def _said(record: Record, name: str, value: Any, role: str) -> Sequence[Any]:
    """What a column of a prompt or its completion says."""
    what = "a text, or a list of messages"
    return (
        [{"role": role, "content": value}] if isinstance(value, str) else _listed(record, name, value, what)
    )


def _listed(record: Record, name: str, value: Any, what: str = "") -> Sequence[Any]:
    """A list, or JSON of one; `what` says for the message what it must be."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = parse_json(value.encode("utf-8", "surrogatepass"))
    if not isinstance(value, (list, tuple)):
        what = what or 'a list of messages such as {"role": "user", "content": "Hello"}'
        raise DataError(f"{record.at}{name}={_short(value)} must be {what}; name another column")
    return value


def _message(record: Record, name: str, given: Any) -> dict[str, Any]:
    """A message under the usual names."""
    if not isinstance(given, Mapping):
        raise DataError(
            f'{record.at}{name}={_short(given)} must be a message such as {{"role": "user", "content": "Hello"}}'
        )
    message = {str(key): value for key, value in given.items() if value is not None}
    if "role" not in message and "from" in message:
        called = message.pop("from")
        message = {"role": _CALLED.get(called, called) if isinstance(called, str) else called, **message}
        if "content" not in message and "value" in message:
            message["content"] = message.pop("value")
    role = message.get("role")
    if role not in ROLES:
        raise DataError(
            f"{record.at}{name}: role={_short(role)} is not a role; write one of {', '.join(ROLES)}, or where messages"
            f" are {{from, value}} one of {', '.join(_CALLED)}"
        )
    if not message.get("content") and not message.get("tool_calls"):
        if role == ASSISTANT:
            raise DataError(
                f"{record.at}{name}: the assistant says nothing; write its content, or leave the record out"
            )
        message.setdefault("content", "")
    return message


def _learned(record: Record, name: str, message: Mapping[str, Any]) -> bool:
    """What a message says about itself."""
    for key, choices in (("train", (False, True)), ("weight", (0, 1))):
        given = message.get(key, choices[1])
        if isinstance(given, bool) is not (key == "train") or given not in choices:
            no, yes = map(json.dumps, choices)
            raise DataError(
                f"{record.at}{name}: {key}={_short(given)} must be {no}, where an answer is not learned, or {yes}"
            )
    if message["role"] != ASSISTANT and message.get("train"):
        raise DataError(
            f"{record.at}{name}: train=true, and only what the assistant says is learned; leave it out, or write"
            " task.train_on: all"
        )
    return message.get("train", True) and message.get("weight", 1) == 1


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content", "")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    return "\n".join(
        each["text"] for each in parts if isinstance(each, Mapping) and isinstance(each.get("text"), str)
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
