"""Records of words and their tags → segments of a row, each token with its word and its tag."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfllm.data.errors import DataError
from tfllm.data.examples import Example
from tfllm.data.layout import Feature
from tfllm.data.record import TEXT, Record
from tfllm.tasks.examples.labels import weight_of
from tfllm.tasks.examples.tagged_record import tagged_record
from tfllm.tasks.examples.text_segments import TextSegments
from tfllm.tasks.examples.words import Place
from tfllm.tasks.tags import iob2, mark_spans, spans_of
from tfllm.tokenizers.repair import repair_text

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Window:
    """Some tokens of a text, framed.

    Attributes:
        token_ids: int32 [n].
        words: int32 [n]: where a token is the first of a word, and this window is the one that speaks of it, the
            word's place in the text, from 1; else 0.
    """

    token_ids: np.ndarray
    words: np.ndarray


class TextWindows:
    """Cuts a text into windows of `seq_len` tokens, framed as the tokenizer frames texts.

    A window shares a quarter of its tokens with the next; of these each speaks of the half that is nearer to it, so
    every word stands where it has something on both sides, and is spoken of once.

    Args:
        tokenizer: Anything with `encode_with_offsets`, `prefix_ids` and `suffix_ids`.
        seq_len: Tokens of a window, at most.

    Raises:
        DataError: The tokens around a text leave no room for it.
    """

    def __init__(self, tokenizer: Any, seq_len: int):
        self.tokenizer = tokenizer
        self.around = tuple(tuple(map(int, ids)) for ids in (tokenizer.prefix_ids, tokenizer.suffix_ids))
        self.room = seq_len - sum(map(len, self.around))
        if self.room < 1:
            raise DataError(
                f"data.seq_len={seq_len} leaves no room beside the {seq_len - self.room} tokens around a text; raise it"
            )

    def of(self, text: str, places: Sequence[Place]) -> list[Window]:
        """Return the windows of a text.

        Args:
            text: The text, valid Unicode.
            places: Where its words stand, in order.
        """
        ids, offsets = self.tokenizer.encode_with_offsets(text, special=False)
        words = _first_tokens(offsets, places)
        if len(ids) <= self.room:
            return [self._framed(ids, words)]
        shared = self.room // 4
        last = len(ids) - self.room
        starts = [*range(0, last, self.room - shared), last]
        windows, spoken = [], 0
        for start, following in zip(starts, [*starts[1:], None], strict=True):
            stop = start + self.room
            until = len(ids) if following is None else (following + stop + 1) // 2
            own = np.zeros(self.room, np.int32)
            own[spoken - start : until - start] = words[spoken:until]
            windows.append(self._framed(ids[start:stop], own))
            spoken = until
        return windows

    def _framed(self, ids: Sequence[int], words: np.ndarray) -> Window:
        before, behind = self.around
        return Window(np.array([*before, *ids, *behind], np.int32), np.pad(words, (len(before), len(behind))))


class TaggedText(TextSegments):
    """Tokenises words that have a tag each; the first token of a word learns its tag, and the others nothing.

    A record has `tokens`, a list of words, and `tags`, one for each; or `text` and `spans` (see `tagged_record`). What
    is longer than a row becomes several windows. A row holds `token_ids`, `segment_ids`, `words` (see `Window`) and
    `tags`, and for each segment `weights` and `example_ids`.

    Args:
        tokenizer: As in `TextWindows`, with `pad_id` and `vocab_size`.
        seq_len: Tokens of a row.
        packing: Several windows to a row.
        class_names: The tags, in the order of the model's logits.
        tag_names: Names of tags that are numbers.

    Raises:
        DataError: The tokens around a text leave no room for it.
    """

    kind = "tagged_text 1"

    def __init__(
        self,
        tokenizer: Any,
        *,
        seq_len: int,
        packing: bool,
        class_names: Sequence[str],
        tag_names: Sequence[str] = (),
    ):
        self.class_names, self.tag_names = tuple(class_names), tuple(tag_names)
        self.windows = TextWindows(tokenizer, seq_len)
        self.places = {name: place for place, name in enumerate(self.class_names)}
        self.marks_spans = mark_spans(self.class_names)
        super().__init__(
            tokenizer,
            seq_len=seq_len,
            packing=packing,
            around=self.windows.around,
            of_tokens=(Feature("words", ""), Feature("tags", "", limit=len(self.class_names))),
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the examples depend on, beside records and tokenizer."""
        return {**super().settings, "class_names": self.class_names, "tag_names": self.tag_names}

    def keeps(self, record: Record) -> bool:
        """Return whether there is any text."""
        return bool(record.text(TEXT).strip())

    def examples(self, records: Sequence[Record], numbers: Sequence[int]) -> Iterator[Example]:
        """Yield the windows of each record."""
        for number, record in zip(numbers, records, strict=True):
            found = tagged_record(record, self.tag_names)
            tags = np.array([0, *self._classes(record, found.tags)], np.int32)
            size = len(repair_text(found.text).encode())
            for window in self.windows.of(found.text, found.places):
                arrays = {
                    "token_ids": window.token_ids,
                    "words": window.words,
                    "tags": tags[window.words],
                }
                yield self.example(number, arrays, weight=weight_of(record), num_bytes=size)
                size = 0

    def _classes(self, record: Record, tags: Sequence[str]) -> list[int]:
        """The place of each tag, of spans in the scheme that the model has learned."""
        if self.marks_spans and mark_spans(tags):
            tags = iob2(spans_of(tags), len(tags))
        for tag in tags:
            if tag not in self.places:
                known = ", ".join(map(repr, self.class_names[:_SHOWN]))
                raise DataError(
                    f"{record.at}the tag {tag!r} is none of those that the training text has: {known}; mend the"
                    " record, or add records with this tag to the training text"
                )
        return [self.places[tag] for tag in tags]


def _first_tokens(offsets: Sequence[Place], places: Sequence[Place]) -> np.ndarray:
    """For each token, the word that it is the first of, from 1; else 0. A token belongs to the word of its last
    character; int32 [n]."""
    starts = np.array([start for start, _ in places], np.int64)
    stops = np.array([stop for _, stop in places], np.int64)
    words = np.zeros(len(offsets), np.int32)
    before = 0
    for index, (first, last) in enumerate(offsets):
        if last <= first or not places:
            continue
        word = int(np.searchsorted(starts, last - 1, side="right"))
        if word > before and last - 1 < stops[word - 1]:
            words[index] = before = word
    return words
