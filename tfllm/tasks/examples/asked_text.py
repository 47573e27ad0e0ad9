"""Records of a question, a context and answers → segments of a row, each with where the answer begins and ends."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfllm.data.errors import DataError
from tfllm.data.examples import Example
from tfllm.data.layout import Feature
from tfllm.data.record import Record
from tfllm.tasks.examples.asked_record import CONTEXT, QUESTION, Asked, asked_record
from tfllm.tasks.examples.labels import weight_of
from tfllm.tasks.examples.text_segments import TextSegments


@dataclass(frozen=True, slots=True)
class ContextWindow:
    """A question and a part of its context, framed.

    Attributes:
        token_ids: int32 [n].
        token_type_ids: int32 [n]: 1 from the context on.
        begins: int32 [n]: the place in the context of a token's first character, from 1; 0 elsewhere.
        ends: int32 [n]: that of the character behind its last, from 0; 0 elsewhere.
    """

    token_ids: np.ndarray
    token_type_ids: np.ndarray
    begins: np.ndarray
    ends: np.ndarray


class ContextWindows:
    """Cuts a context into windows that fit beside its question into `seq_len` tokens.

    Args:
        tokenizer: Anything with `encode`, `encode_with_offsets`, `prefix_ids`, `separator_ids` and `suffix_ids`.
        seq_len: Tokens of a window, at most.
        stride: Tokens that a window shares with the next; at most half of what fits.
    """

    def __init__(self, tokenizer: Any, seq_len: int, stride: int):
        self.tokenizer, self.seq_len, self.stride = tokenizer, seq_len, stride
        around = (tokenizer.prefix_ids, tokenizer.separator_ids, tokenizer.suffix_ids)
        self.around = tuple(tuple(map(int, ids)) for ids in around)

    def of(self, asked: Asked, at: str = "") -> list[ContextWindow]:
        """Return the windows.

        Args:
            asked: The question and the context.
            at: How a message begins.

        Raises:
            DataError: The question leaves no room for its context.
        """
        question = self.tokenizer.encode(asked.question)
        before, between, behind = self.around
        head = [*before, *question, *between]
        room = self.seq_len - len(head) - len(behind)
        if room < 2:
            raise DataError(
                f"{at}the question {asked.question[:60]!r} has {len(question)} tokens, which leaves no room for its"
                f" context in a row of {self.seq_len}; raise data.seq_len, or shorten it"
            )
        ids, places = self.tokenizer.encode_with_offsets(asked.context, special=False)
        step = room - min(self.stride, room // 2)
        last = max(0, len(ids) - room)
        windows = []
        for start in [*range(0, last, step), last]:
            part, spans = ids[start : start + room], places[start : start + room]
            size = len(head) + len(part) + len(behind)
            begins, ends = np.zeros([2, size], np.int32)
            for place, (first, stop) in enumerate(spans, len(head)):
                if stop > first:
                    begins[place], ends[place] = first + 1, _behind_marks(asked.context, stop)
            types = np.repeat(np.array([0, 1], np.int32), [len(head), size - len(head)])
            windows.append(ContextWindow(np.array([*head, *part, *behind], np.int32), types, begins, ends))
        return windows


def _behind_marks(text: str, place: int) -> int:
    """Where the marks end that belong to the character before a place: some tokenizers leave accents out."""
    while place < len(text) and unicodedata.category(text[place])[0] == "M":
        place += 1
    return place


class AskedText(TextSegments):
    """Tokenises questions and their contexts; a context that does not fit becomes several windows.

    A row holds `token_ids`, `token_type_ids` where the model tells types apart, `segment_ids`, `begins` and `ends` (see
    `ContextWindow`), and for each segment `weights` and `example_ids`. `answer` is 1 at the first token of the answer,
    2 at the
    last, 3 at the only one; where a window does not hold the whole answer, its first token is the only one, as in
    BERT (Devlin et al. 2019). Of a record whose answers are nowhere in its context nothing is learned.

    Args:
        tokenizer: As in `ContextWindows`, with `pad_id` and `vocab_size`.
        seq_len: Tokens of a row.
        packing: Several windows to a row.
        stride: As in `ContextWindows`.
        token_types: The model tells token types apart.
    """

    kind = "asked_text 1"
    split_column = CONTEXT

    def __init__(self, tokenizer: Any, *, seq_len: int, packing: bool, stride: int, token_types: bool):
        self.windows = ContextWindows(tokenizer, seq_len, stride)
        self.stride, self.token_types = stride, token_types
        super().__init__(
            tokenizer,
            seq_len=seq_len,
            packing=packing,
            around=self.windows.around,
            token_types=token_types,
            of_tokens=(Feature("begins", ""), Feature("ends", ""), Feature("answer", "", limit=4)),
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the examples depend on, beside records and tokenizer."""
        return {**super().settings, "stride": self.stride, "token_types": self.token_types}

    def keeps(self, record: Record) -> bool:
        """Return whether neither text is blank."""
        return all(record.text(column).strip() for column in (QUESTION, CONTEXT))

    def examples(self, records: Sequence[Record], numbers: Sequence[int]) -> Iterator[Example]:
        """Yield the windows of each record."""
        for number, record in zip(numbers, records, strict=True):
            asked = asked_record(record)
            weight = 0.0 if asked.is_lost else weight_of(record)
            size = len(asked.question.encode()) + len(asked.context.encode())
            for window in self.windows.of(asked, record.at):
                arrays = {
                    "token_ids": window.token_ids,
                    "token_type_ids": window.token_type_ids,
                    "begins": window.begins,
                    "ends": window.ends,
                    "answer": answer_in(window, asked.span),
                }
                yield self.example(number, arrays, weight=weight, num_bytes=size)
                size = 0


def answer_in(window: ContextWindow, span: tuple[int, int] | None) -> np.ndarray:
    """Mark the first token of an answer with 1 and the last with 2, int32 [n]; of one that the window does not hold as
    a whole, or that is not there, the window's first token is both.

    Args:
        window: The window.
        span: The answer's first character in the context, and the one behind its last.
    """
    marks = np.zeros(len(window.token_ids), np.int32)
    real = np.nonzero(window.begins)[0]
    if span is not None and len(real):
        start, stop = span
        first = real[window.ends[real] > start]
        last = real[window.begins[real] - 1 < stop]
        holds = window.begins[real[0]] - 1 <= start and stop <= window.ends[real[-1]]
        if holds and len(first) and len(last) and first[0] <= last[-1]:
            marks[first[0]] += 1
            marks[last[-1]] += 2
            return marks
    marks[0] = 3
    return marks
