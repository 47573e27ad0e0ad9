"""What a record asks of its context, and where the answers stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfllm.data.errors import DataError
from tfllm.data.record import Record
from tfllm.tokenizers.repair import repair_text

QUESTION, CONTEXT, ANSWERS = "question", "context", "answers"
_SHOWN = 60  # characters of a text


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about a context.

    Attributes:
        question: The question, valid Unicode.
        context: What it is about, valid Unicode.
        texts: Its answers; none where the context has none.
        span: The first and the one behind the last character of the first answer that is found; None where none is.
        moved: That answer is elsewhere than the record says, at the only place where its text stands.
    """

    question: str
    context: str
    texts: tuple[str, ...]
    span: tuple[int, int] | None
    moved: bool

    @property
    def is_lost(self) -> bool:
        """Whether there are answers, and none of them is found."""
        return bool(self.texts) and self.span is None


def asked_record(record: Record, *, answered: bool = True) -> Asked:
    """Return what a record asks.

    Answers are a list of `{text, answer_start}`, lists of both in one object, or a text. A place that is missing or
    wrong is that of the only one where the text stands.

    Args:
        record: The record.
        answered: It has answers; else none are read.

    Raises:
        DataError: It says something else; the message names the place.
    """
    question, context = record.text(QUESTION), record.text(CONTEXT)
    answers = _answers(record) if answered else []
    texts = tuple(text for text, _ in answers)
    span, moved = None, False
    for text, start in answers:
        if start is not None and start >= 0 and context[start : start + len(text)] == text:
            span = (start, start + len(text))
            break
        if context.count(text) == 1:
            place = context.index(text)
            span, moved = (place, place + len(text)), start is not None
            break
    return Asked(repair_text(question), repair_text(context), texts, span, moved)


def _answers(record: Record) -> list[tuple[str, int | None]]:
    """The text and the place of each, without blanks around."""
    value = record.value(ANSWERS)
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
        if isinstance(texts, list) and (
            starts is None or (isinstance(starts, list) and len(starts) == len(texts))
        ):
            value = [
                {"text": text, "answer_start": start}
                for text, start in zip(texts, starts or [None] * len(texts), strict=True)
            ]
        else:
            value = [value]
    elif isinstance(value, str) or value is None:
        value = [{"text": value or ""}]
    if not isinstance(value, list):
        raise _wrong(record, value)
    found = []
    for answer in value:
        if isinstance(answer, str):
            answer = {"text": answer}
        text = answer.get("text") if isinstance(answer, Mapping) else None
        start = answer.get("answer_start") if isinstance(answer, Mapping) else None
        if not isinstance(text, str) or (start is not None and type(start) is not int):
            raise _wrong(record, value)
        if text.strip():
            moved = len(text) - len(text.lstrip())
            found.append((text.strip(), None if start is None else start + moved))
    return found


def _wrong(record: Record, value: Any) -> DataError:
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
    return DataError(
        f"{record.at}'answers' must be a list of {{text, answer_start}}, empty where there is none, or a text, not"
        f" {shown}; mend the record, or name another column"
    )
