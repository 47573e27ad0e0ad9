"""Scores before a softmax: what stands for a masked one, and the bound that some models put on them."""

from __future__ import annotations

import tensorflow as tf

# Large enough to vanish in a float32 softmax, finite so that a row with nothing to see stays finite.
MASKED = -1e9


class SoftCap:
    """Keeps scores within a bound: `bound * tanh(x / bound)` (Gemma Team 2024, "Gemma 2", section 2).

    Args:
        bound: None leaves scores as they are.
    """

    def __init__(self, bound: float | None):
        self._bound = bound

    def __call__(self, logits: tf.Tensor) -> tf.Tensor:
        """Caps float32 of any shape."""
        return logits if self._bound is None else self._bound * tf.tanh(logits / self._bound)

    def slope(self, slopes: tf.Tensor, capped: tf.Tensor) -> tf.Tensor:
        """The gradient of what was capped, from that of the result and the result."""
        return slopes if self._bound is None else slopes * (1.0 - tf.square(capped / self._bound))
