"""Rows of tokens a decoder reads, of which it learns some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfllm.data.layout import Feature, RowLayout
from tfllm.tasks.examples.text_segments import EXAMPLES_A_ROW

# Of each segment, whatever is read: how much it counts, and the number of its record.
OF_SEGMENTS = (Feature("weights", None, dtype="float32"), Feature("example_ids", None, fill=-1))


def learned_layout(
    tokenizer: Any,
    *,
    seq_len: int,
    packing: bool,
    more: Sequence[Feature] = (),
    segments: int = EXAMPLES_A_ROW,
    fewest: int = 1,
) -> RowLayout:
    """Return the layout of rows that hold `token_ids`, `targets`, each next token, and `learned`, 1 where it is.

    Args:
        tokenizer: Fills what is empty, and knows how many tokens there are.
        seq_len: Tokens of a row.
        packing: Several examples to a row.
        more: What else is told of each segment.
        segments: Of a row, at most, with packing.
        fewest: Segments of an example, and so of a row without packing.
    """
    ids: dict[str, Any] = {"fill": tokenizer.pad_id, "limit": tokenizer.vocab_size}
    of_tokens = (
        Feature("token_ids", "", **ids),
        Feature("targets", "", **ids),
        Feature("segment_ids", ""),
        Feature("learned", "", limit=2),
    )
    return RowLayout(
        (("", seq_len),), (*of_tokens, *OF_SEGMENTS, *more), segments=segments if packing else fewest
    )


def learned_arrays(ids: Sequence[int], is_learned: Sequence[bool]) -> dict[str, np.ndarray]:
    """Return the features of one segment.

    Args:
        ids: All tokens, of which the last is a target only.
        is_learned: Which of them are to be given.
    """
    whole = np.array(ids, np.int32)
    return {
        "token_ids": whole[:-1],
        "targets": whole[1:],
        "learned": np.array(is_learned[1:], np.int32),
    }
