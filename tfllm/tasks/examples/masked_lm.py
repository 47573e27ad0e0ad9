"""Documents → segments of which some tokens will be hidden."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfllm.data.errors import DataError
from tfllm.data.examples import Example, Packer, WholeSegments
from tfllm.data.layout import Feature, RowLayout
from tfllm.data.record import TEXT, Record
from tfllm.tokenizers.words import word_starts

_TOKENS_A_SEGMENT = 8  # rows have room for segments of this length on the average


def most_segments(seq_len: int, packing: bool) -> int:
    """How many segments a row of examples holds at most."""
    return max(1, seq_len // _TOKENS_A_SEGMENT) if packing else 1


class MaskedLMExamples:
    """Tokenises documents, cuts long ones, and puts around each part what the tokenizer puts around a text.

    A row holds `token_ids`, `segment_ids`, and `words`: which word of its segment a token belongs to, from 1; 0 where
    nothing may be hidden, which are the tokens around the text.

    Args:
        tokenizer: Anything with `encode_batch`, `token_bytes`, `prefix_ids`, `suffix_ids`, `pad_id` and `vocab_size`.
        seq_len: Tokens in a row.
        packing: Several parts to a row.

    Raises:
        DataError: The tokens around a text leave no room in a row.
    """

    split_column = TEXT
    fewest_documents = 1

    def __init__(self, tokenizer: Any, *, seq_len: int, packing: bool):
        self.tokenizer, self.seq_len, self.packing = tokenizer, seq_len, packing
        self.prefix, self.suffix = tuple(tokenizer.prefix_ids), tuple(tokenizer.suffix_ids)
        self.room = seq_len - len(self.prefix) - len(self.suffix)
        if self.room < 1:
            around = len(self.prefix) + len(self.suffix)
            raise DataError(
                f"data.seq_len={seq_len} leaves no room beside the {around} tokens around a text; raise it"
            )
        small = seq_len + 1
        self.layout = RowLayout(
            (("", seq_len),),
            (
                Feature("token_ids", "", fill=tokenizer.pad_id, limit=tokenizer.vocab_size),
                Feature("words", "", limit=small),
                Feature("segment_ids", "", limit=small),
            ),
            segments=most_segments(seq_len, packing),
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the examples depend on, beside text and tokenizer."""
        return {
            "examples": "masked_lm 1",
            "around": [self.prefix, self.suffix],
            "seq_len": self.seq_len,
            "packing": self.packing,
        }

    def keeps(self, record: Record) -> bool:
        """Return whether there is any text."""
        return bool(record.text(TEXT))

    def examples(self, records: Sequence[Record], numbers: Sequence[int]) -> Iterator[Example]:
        """Yield the parts of each document."""
        texts = [record.text(TEXT) for record in records]
        for number, text, ids in zip(numbers, texts, self.tokenizer.encode_batch(texts), strict=True):
            ids = np.asarray(ids, np.int32)
            num_bytes = len(text.encode())
            starts = word_starts(self.tokenizer.token_bytes, ids)
            for start in range(0, len(ids), self.room):
                stop = start + self.room
                yield self._part(number, ids[start:stop], starts[start:stop], num_bytes)
                num_bytes = 0  # counted with the first

    def packer(self) -> Packer:
        """Return what puts parts into rows."""
        return WholeSegments(self.layout, packing=self.packing)

    def _part(self, number: int, ids: np.ndarray, starts: np.ndarray, num_bytes: int) -> Example:
        starts[:1] = True
        words = np.concatenate([np.zeros(len(self.prefix)), np.cumsum(starts), np.zeros(len(self.suffix))])
        arrays = {
            "token_ids": np.array([*self.prefix, *ids, *self.suffix], np.int32),
            "words": words.astype(np.int32),
        }
        return Example(number, arrays, len(words), num_bytes)
