"""Records of a text with two marked places and a label → segments of a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfllm.data.errors import DataError
from tfllm.data.examples import Example
from tfllm.data.record import TEXT, Record
from tfllm.tasks.examples.labelled_text import LabelledText
from tfllm.tasks.examples.labels import Labels, weight_of
from tfllm.tasks.examples.words import Place
from tfllm.tokenizers.repair import repair_text

HEAD, TAIL = "head", "tail"
_MARKS = {HEAD: "@", TAIL: "#"}


class MarkedText(LabelledText):
    """Tokenises a text in which two places are marked, `@ … @` the head and `# … #` the tail, as Zhou and Chen (2022)
    mark them: any tokenizer has these signs, and no vocabulary grows.

    Of what is too long, as much is kept around both as fits.

    Args:
        tokenizer: As in `LabelledText`, with `encode_with_offsets`.
        seq_len: Tokens of an example, at most.
        packing: Several examples to a row.
        labels: What the labels are.
    """

    def __init__(self, tokenizer: Any, *, seq_len: int, packing: bool, labels: Labels):
        super().__init__(tokenizer, seq_len=seq_len, packing=packing, labels=labels)

    kind = "marked_text 1"

    def examples(self, records: Sequence[Record], numbers: Sequence[int]) -> Iterator[Example]:
        """Yield each record."""
        for number, record in zip(numbers, records, strict=True):
            text = repair_text(record.text(TEXT))
            ids = self.marked(text, place_of(record, HEAD), place_of(record, TAIL), record.at)
            arrays = {"token_ids": ids, **self.labelled(record)}
            yield self.example(number, arrays, weight=weight_of(record), num_bytes=len(text.encode()))

    def marked(self, text: str, head: Place, tail: Place, at: str = "") -> np.ndarray:
        """Return the ids of an example, int32 [n].

        Args:
            text: The text, valid Unicode.
            head: The first character of the head, and the one behind its last.
            tail: Those of the tail.
            at: How a message begins.

        Raises:
            DataError: A place is not in the text, or both do not fit into a row.
        """
        for name, (start, stop) in ((HEAD, head), (TAIL, tail)):
            if not 0 <= start < stop <= len(text) or not text[start:stop].strip():
                raise DataError(
                    f"{at}{name!r} must be where some of the text's {len(text)} characters begin and end, not"
                    f" {[start, stop]}; mend the record"
                )
        shown, first, last = _with_marks(text, {HEAD: head, TAIL: tail})
        ids, offsets = self.tokenizer.encode_with_offsets(shown, special=False)
        inside = [index for index, (a, b) in enumerate(offsets) if a < last and b > first]
        begin, end = inside[0], inside[-1] + 1
        if end - begin > self.room:
            raise DataError(
                f"{at}from the first of the two marked places to the end of the other there are {end - begin} tokens,"
                f" and a row has room for {self.room}; raise data.seq_len, or leave the record out"
            )
        start = max(0, min(begin - (self.room - (end - begin)) // 2, len(ids) - self.room))
        return self.joined([ids[start : start + self.room]])[0]


def place_of(record: Record, column: str) -> Place:
    """Return the place that a column says: `[start, end]` or `{start, end}`, in characters, the end behind the last.

    Raises:
        DataError: It says something else.
    """
    value = record.value(column)
    if isinstance(value, Mapping):
        value = [value.get("start"), value.get("end")]
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(type(x) is int for x in value):
        raise DataError(
            f"{record.at}{column!r} must be [start, end], the first character and the one behind the last, not"
            f" {record.value(column)!r}; mend the record, or name another column"
        )
    return value[0], value[1]


def _with_marks(text: str, places: Mapping[str, Place]) -> tuple[str, int, int]:
    """The text with its marks, and where the first begins and the last ends. Of two places one may hold the other."""
    marks = []
    for name, (start, stop) in places.items():
        marks.append((start, 1, start - stop, f"{_MARKS[name]} "))  # the longer begins first
        marks.append(
            (stop, 0, start - stop, f" {_MARKS[name]}")
        )  # what ends there ends before the next begins
    marks.sort(key=lambda mark: (mark[0], mark[1], mark[2] if mark[1] else -mark[2]))
    parts, done, begin = [], 0, 0
    for place, *_, mark in marks:
        parts.append(text[done:place])
        if not done and len(parts) == 1:
            begin = place
        parts.append(mark)
        done = place
    shown = "".join(parts)
    return shown + text[done:], begin, len(shown)
