"""What makers have in common whose every example is one segment of a row: its layout, its settings, its packer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from tfllm.data.examples import Example, Packer, WholeSegments
from tfllm.data.layout import Feature, RowLayout
from tfllm.data.record import TEXT

EXAMPLES_A_ROW = 16  # at most, with packing


class TextSegments:
    """Rows of `token_ids`, `token_type_ids` where they are asked for, and `segment_ids`; for each segment `weights` and
    `example_ids`; and what a subclass has besides.

    Args:
        tokenizer: Its `pad_id` fills rows, and ids are below its `vocab_size`.
        seq_len: Tokens of an example, at most.
        packing: Several examples to a row.
        around: The ids that stand around texts.
        token_types: Rows have token types.
        of_tokens: Features besides of each token.
        of_segments: Features besides of each segment.
    """

    kind: ClassVar[str]  # and its version: other rows have another
    split_column = TEXT
    fewest_documents = 1

    def __init__(
        self,
        tokenizer: Any,
        *,
        seq_len: int,
        packing: bool,
        around: Sequence[Sequence[int]],
        token_types: bool = False,
        of_tokens: Sequence[Feature] = (),
        of_segments: Sequence[Feature] = (),
    ):
        self.tokenizer, self.seq_len, self.packing = tokenizer, seq_len, packing
        self.around = tuple(tuple(map(int, ids)) for ids in around)
        self.layout = RowLayout(
            (("", seq_len),),
            (
                Feature("token_ids", "", fill=tokenizer.pad_id, limit=tokenizer.vocab_size),
                *((Feature("token_type_ids", "", limit=2),) if token_types else ()),
                Feature("segment_ids", ""),
                *of_tokens,
                *of_segments,
                Feature("weights", None, dtype="float32"),
                Feature("example_ids", None, fill=-1),
            ),
            segments=EXAMPLES_A_ROW if packing else 1,
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the examples depend on, beside records and tokenizer."""
        return {
            "examples": self.kind,
            "around": self.around,
            "seq_len": self.seq_len,
            "packing": self.packing,
        }

    def packer(self) -> Packer:
        """Return what puts examples into rows."""
        return WholeSegments(self.layout, packing=self.packing)

    def example(
        self, number: int, arrays: Mapping[str, Any], *, weight: float, num_bytes: int, is_cut: bool = False
    ) -> Example:
        """Return an example.

        Args:
            number: The place of its record.
            arrays: By feature: `token_ids` int32 [n], others [n] or of the segment [1].
            weight: What it counts.
            num_bytes: UTF-8 bytes of text that it stands for.
            is_cut: Some of its text is left out.
        """
        made = {
            **arrays,
            "weights": np.array([weight], np.float32),
            "example_ids": np.array([number], np.int32),
        }
        return Example(number, made, len(arrays["token_ids"]), num_bytes, is_cut=is_cut)
