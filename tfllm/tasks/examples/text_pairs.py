"""Records of texts that belong together → segments of a row, next to each other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfllm.data.errors import DataError
from tfllm.data.examples import Example, Packer, WholeSegments
from tfllm.data.layout import Feature, RowLayout
from tfllm.data.record import TEXT, Record

ANCHOR, POSITIVE, NEGATIVE = 1, 2, 3  # `roles`; 0 where there is no segment
_EXAMPLES_A_ROW = 8  # at most, with packing


class TextPairs:
    """Tokenises an anchor, its positive and its hard negatives, each framed and cut to `seq_len` tokens.

    A row holds `token_ids` and `segment_ids`, and for each segment `roles`, `text_keys`, which are equal where texts
    are, and `example_ids`. An anchor's positive is the segment behind it.

    Args:
        tokenizer: Anything with `encode_batch`, `prefix_ids`, `suffix_ids`, `pad_id` and `vocab_size`.
        seq_len: Tokens of a text, at most.
        packing: Several examples to a row.
        twins: Each text is its own positive.
        num_negatives: Hard negatives of each example.

    Raises:
        DataError: The tokens around a text leave no room for it.
    """

    fewest_documents = 1

    def __init__(self, tokenizer: Any, *, seq_len: int, packing: bool, twins: bool, num_negatives: int):
        self.tokenizer, self.seq_len, self.packing = tokenizer, seq_len, packing
        self.prefix, self.suffix = list(tokenizer.prefix_ids), list(tokenizer.suffix_ids)
        self.room = seq_len - len(self.prefix) - len(self.suffix)
        if self.room < 1:
            around = seq_len - self.room
            raise DataError(
                f"data.seq_len={seq_len} leaves no room beside the {around} tokens around a text; raise it"
            )
        self.columns = (TEXT,) if twins else ("anchor", "positive")
        self.twins, self.num_negatives = twins, num_negatives
        texts = 2 + num_negatives
        self.layout = RowLayout(
            (("", texts * seq_len),),
            (
                Feature("token_ids", "", fill=tokenizer.pad_id, limit=tokenizer.vocab_size),
                Feature("segment_ids", ""),
                Feature("roles", None),
                Feature("text_keys", None),
                Feature("example_ids", None, fill=-1),
            ),
            segments=texts * (_EXAMPLES_A_ROW if packing else 1),
        )

    @property
    def split_column(self) -> str:
        """The anchor, or the text."""
        return self.columns[0]

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the examples depend on, beside records and tokenizer."""
        return {
            "examples": "text_pairs 1",
            "around": [self.prefix, self.suffix],
            "seq_len": self.seq_len,
            "packing": self.packing,
            "twins": self.twins,
            "negatives": self.num_negatives,
        }

    def keeps(self, record: Record) -> bool:
        """Return whether no text is blank."""
        return all(text.strip() for text in self._texts(record))

    def examples(self, records: Sequence[Record], numbers: Sequence[int]) -> Iterator[Example]:
        """Yield the texts of each record, in one example."""
        texts = [self._texts(record) for record in records]
        encoded = iter(self.tokenizer.encode_batch([text for each in texts for text in each]))
        roles = np.array([ANCHOR, POSITIVE, *[NEGATIVE] * self.num_negatives], np.int32)
        for number, each in zip(numbers, texts, strict=True):
            ids = [next(encoded) for _ in each]
            is_cut = max(map(len, ids)) > self.room
            parts = [[*self.prefix, *part[: self.room], *self.suffix] for part in ids]
            if self.twins:
                parts *= 2
            arrays = {
                "token_ids": np.array([i for part in parts for i in part], np.int32),
                "roles": roles,
                "text_keys": np.array([_key(part) for part in parts], np.int32),
                "example_ids": np.full(len(parts), number, np.int32),
            }
            sizes = tuple(map(len, parts))
            size = sum(len(text.encode()) for text in each)
            yield Example(number, arrays, sum(sizes), size, sizes, is_cut=is_cut)

    def packer(self) -> Packer:
        """Return what puts examples into rows."""
        return WholeSegments(self.layout, packing=self.packing)

    def _texts(self, record: Record) -> list[str]:
        """The texts of a record, in the order of their roles.

        Raises:
            DataError: A column is not there, or there are more or fewer negatives than asked for.
        """
        texts = [record.text(column) for column in self.columns]
        if self.num_negatives:
            found = record.value("negative")
            negatives = found if isinstance(found, list) else [found]
            if len(negatives) != self.num_negatives or not all(isinstance(each, str) for each in negatives):
                raise DataError(
                    f"{record.at}'negative' must be {self.num_negatives} text(s), as task.negatives says, and is"
                    f" {str(found)[:80]!r}; write another number there, or mend the record"
                )
            texts += negatives
        return texts


def _key(ids: Sequence[int]) -> int:
    """A number that differs for two texts but once in four billion times."""
    digest = hashlib.blake2b(np.array(ids, "<i4").tobytes(), digest_size=4).digest()
    return int.from_bytes(digest, "little", signed=True)
