"""What a model says of each example of a split, in the order of the source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Prediction:
    """What a model says of one example.

    Attributes:
        number: The place of the example's record in its source, from 0; of a mixture of K sources K times that, and
            which it is of.
        values: By name: what was said of the example, or of each of its tokens, [n, …].
        record: The example's record, for tasks that read it.
    """

    number: int
    values: Mapping[str, np.ndarray]
    record: Any = None


def predictions_of_batch(
    example_ids: np.ndarray,
    segment_ids: np.ndarray,
    segments: Mapping[str, np.ndarray],
    tokens: Mapping[str, np.ndarray],
) -> Iterator[Prediction]:
    """Yield the predictions of a batch; rows that only fill it up have none.

    Args:
        example_ids: int32 [B, S], the number of each segment's example; negative: no segment.
        segment_ids: int32 [B, T], which segment of its row a token belongs to, from 1.
        segments: Arrays [B, S, …].
        tokens: Arrays [B, T, …].
    """
    for row, segment in zip(*np.nonzero(example_ids >= 0), strict=True):
        values = {name: array[row, segment] for name, array in segments.items()}
        if tokens:
            own = segment_ids[row] == segment + 1
            values |= {name: array[row][own] for name, array in tokens.items()}
        yield Prediction(int(example_ids[row, segment]), values)
