"""Changing texts character by character inside a TensorFlow graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfllm.tokenizers.assigned import asked_about
from tfllm.tokenizers.graph.constant import constant

NONE = -1
# Between any two characters when a function is asked about all of them at once: nothing becomes it.
_BETWEEN = "7"


class CodePointMap(tf.Module):
    """Maps each character to none, one, or one with another before or behind it.

    Args:
        table: int32 [R, 5], runs of code points that are treated alike: the first of the run, whether they are
            dropped, what is added to them, and what is put before and behind, NONE for nothing.
    """

    def __init__(self, table: np.ndarray):
        super().__init__(name="code_points")
        self._starts, self._drops, self._added, self._before, self._behind = map(constant, table.T.copy())

    def __call__(self, code_points: tf.Tensor, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Map characters.

        Args:
            code_points: int32 [N].
            text: int64 [N], the text each stands in.

        Returns:
            The same for the characters that come of them.
        """
        run = tf.searchsorted(self._starts, code_points, side="right") - 1
        middle = tf.where(tf.gather(self._drops, run) == 1, NONE, code_points + tf.gather(self._added, run))
        mapped = tf.stack([tf.gather(self._before, run), middle, tf.gather(self._behind, run)], 1)
        kept = mapped != NONE
        return mapped[kept], tf.repeat(text, tf.reduce_sum(tf.cast(kept, tf.int32), 1))


def mapped_runs(function: Callable[[str], str], *, only: Callable[[str], str] | None = None) -> np.ndarray:
    """Return the table of `CodePointMap` for a function from text to text that treats each character by itself.

    Args:
        function: The function, which is called once on all characters.
        only: Characters that this function changes are left as they are, since they do not occur.
    """
    points = asked_about()
    text = _BETWEEN.join(map(chr, points))
    mapped = _apart(function, text, len(points))
    if only is not None:
        stable = _apart(only, text, len(points))
        mapped = [m if s == chr(i) else chr(i) for i, m, s in zip(points, mapped, stable, strict=True)]
    rows, last = [], None
    for point, result in zip(points, mapped, strict=True):
        if (row := _row(point, result)) != last:
            rows.append((point, *row))
            last = row
    return np.array(rows, np.int32)


def _apart(function: Callable[[str], str], text: str, count: int) -> list[str]:
    parts = function(text).split(_BETWEEN)
    seven = ord(_BETWEEN)  # it comes out as two empty ones
    parts[seven : seven + 2] = [_BETWEEN]
    assert len(parts) == count
    return parts


def _row(point: int, result: str) -> tuple[int, int, int, int]:
    if not result:
        return 1, 0, NONE, NONE
    # U+0130 becomes an i and a mark; an ideograph gets a blank on either side.
    middle = 1 if len(result) == 3 else 0
    before = ord(result[0]) if middle else NONE
    behind = ord(result[middle + 1]) if len(result) > 1 else NONE
    assert len(result) <= 3
    return 0, ord(result[middle]) - point, before, behind
