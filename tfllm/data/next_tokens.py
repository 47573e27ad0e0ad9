"""Documents → rows for next-token prediction: what `prepare_rows` makes where no task says otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfllm.data.errors import DataError
from tfllm.data.examples import Example, Packer
from tfllm.data.layout import Rows, next_token_layout
from tfllm.data.packing import RowPacker
from tfllm.data.record import TEXT, Record


class NextTokens:
    """Tokenises documents, to be cut into rows wherever a row ends (see `RowPacker`).

    Args:
        tokenizer: Anything with `encode_batch`, `bos_id`, `eos_id`, `pad_id` and `vocab_size`.
        seq_len: Tokens in a row.
        packing: See `RowPacker`.

    Raises:
        DataError: The tokenizer has no token that ends a document, or `seq_len` is less than 2.
    """

    split_column = TEXT
    fewest_documents = 1

    def __init__(self, tokenizer: Any, *, seq_len: int, packing: bool):
        eos, bos, pad = tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id
        if eos is None:
            raise DataError("the tokenizer has no eos_id, which ends each document; add an end token to it")
        # Without a begin token documents start with the end token; without a pad token any id pads.
        ids = {"bos_id": eos if bos is None else bos, "eos_id": eos, "pad_id": 0 if pad is None else pad}
        self.ids = {name: int(number) for name, number in ids.items()}
        self.tokenizer, self.seq_len, self.packing = tokenizer, seq_len, packing
        self.layout = next_token_layout(
            seq_len=seq_len, vocab_limit=tokenizer.vocab_size, pad_id=self.ids["pad_id"]
        )
        self.packer()  # which knows what `seq_len` may be

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the rows depend on, beside text and tokenizer."""
        return {"ids": list(self.ids.values()), "seq_len": self.seq_len, "packing": self.packing}

    def keeps(self, record: Record) -> bool:
        """Return whether there is any text."""
        return bool(record.text(TEXT))

    def examples(self, records: Sequence[Record], numbers: Sequence[int]) -> Iterator[Example]:
        """Yield an example for each document that has a token, its ids without begin and end."""
        texts = [record.text(TEXT) for record in records]
        for number, text, ids in zip(numbers, texts, self.tokenizer.encode_batch(texts), strict=True):
            if len(ids):
                yield Example(number, {"ids": np.asarray(ids, np.int32)}, len(ids) + 1, len(text.encode()))

    def packer(self) -> Packer:
        """Return what cuts the documents of one piece into rows."""
        return _Cut(RowPacker(seq_len=self.seq_len, packing=self.packing, **self.ids))


class _Cut:
    """A `RowPacker` that takes examples."""

    def __init__(self, packer: RowPacker):
        self._packer = packer

    def add(self, examples: Sequence[Example]) -> Rows:
        return self._packer.add(example.arrays["ids"] for example in examples)

    def finish(self) -> Rows:
        return self._packer.finish()
