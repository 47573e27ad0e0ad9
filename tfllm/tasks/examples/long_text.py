"""Documents → rows of running text, one sequence a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfllm.data.examples import Example, Packer
from tfllm.data.layout import Feature, RowLayout, Rows
from tfllm.data.record import TEXT, Record


class LongText:
    """Tokenises documents and cuts them into rows; no token but their own and those that end them.

    A row holds `token_ids`, and `segment_ids`, 1 for text.

    Args:
        tokenizer: Anything with `encode_batch`, `eos_id`, `pad_id` and `vocab_size`.
        row_len: Tokens in a row.
        packing: A document goes on behind the one before, which its end token ends, wherever a row ends, as T5 has it;
            otherwise each begins a row of its own.
    """

    split_column = TEXT
    fewest_documents = 1

    def __init__(self, tokenizer: Any, *, row_len: int, packing: bool):
        self.tokenizer, self.row_len, self.packing = tokenizer, row_len, packing
        self.layout = RowLayout(
            (("", row_len),),
            (
                Feature("token_ids", "", fill=tokenizer.pad_id, limit=tokenizer.vocab_size),
                Feature("segment_ids", "", limit=2),
            ),
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the rows depend on, beside text and tokenizer."""
        return {"examples": "long_text 1", "row_len": self.row_len, "packing": self.packing}

    def keeps(self, record: Record) -> bool:
        """Return whether there is any text."""
        return bool(record.text(TEXT))

    def examples(self, records: Sequence[Record], numbers: Sequence[int]) -> Iterator[Example]:
        """Yield an example for each document that has a token."""
        texts = [record.text(TEXT) for record in records]
        end = [self.tokenizer.eos_id] if self.packing else []
        for number, text, ids in zip(numbers, texts, self.tokenizer.encode_batch(texts), strict=True):
            if len(ids):
                ids = np.array([*ids, *end], np.int32)
                yield Example(number, {"ids": ids}, len(ids), len(text.encode()))

    def packer(self) -> Packer:
        """Return what cuts the documents of one piece into rows."""
        return _Cut(self.layout, self.packing)


class _Cut:
    def __init__(self, layout: RowLayout, packing: bool):
        self.layout, self.packing = layout, packing
        [(_, self.row_len)] = layout.sides
        self.rest = np.zeros(0, np.int32)

    def add(self, examples: Sequence[Example]) -> Rows:
        ids = [example.arrays["ids"] for example in examples]
        if not self.packing:
            return self._rows([part for each in ids for part in self._parts(each)])
        whole = np.concatenate([self.rest, *ids])
        full = len(whole) // self.row_len * self.row_len
        self.rest = whole[full:]
        return self._rows(self._parts(whole[:full]))

    def finish(self) -> Rows:
        return self._rows(self._parts(self.rest))

    def _parts(self, ids: np.ndarray) -> list[np.ndarray]:
        return [ids[start : start + self.row_len] for start in range(0, len(ids), self.row_len)]

    def _rows(self, parts: Sequence[np.ndarray]) -> Rows:
        rows = self.layout.empty(len(parts))
        for index, part in enumerate(parts):
            rows["token_ids"][index, : len(part)] = part
            rows["segment_ids"][index, : len(part)] = 1
        return rows
