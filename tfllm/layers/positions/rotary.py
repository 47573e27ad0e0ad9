"""Rotary angles, by which queries and keys are turned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfllm.layers.positions.position_layer import Angles, PositionLayer
from tfllm.layers.positions.rotary_scaling import scaled_frequencies


class RotaryPositions(PositionLayer):
    """Turns pairs of each head's entries by angles that grow with the position (Su et al. 2021).

    Args:
        rotary_dim: How much of a head is turned, even.
        theta: Base of the geometric series of wavelengths.
        scaling: How the wavelengths are stretched for longer rows; see `scaled_frequencies`.
        local_theta: Base of the blocks with a sliding window, not stretched; None is as in the others (Gemma 3).
    """

    def __init__(
        self,
        *,
        rotary_dim: int,
        theta: float,
        scaling: Mapping[str, Any] | None = None,
        local_theta: float | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._everywhere = (rotary_dim, theta, None if scaling is None else dict(scaling))
        self._local = self._everywhere if local_theta is None else (rotary_dim, local_theta, None)

    def angles(self, positions: tf.Tensor) -> tuple[Angles, Angles]:
        """See `PositionLayer`."""
        everywhere = rotary_angles(positions, *self._everywhere)
        if self._local == self._everywhere:
            return everywhere, everywhere
        return everywhere, rotary_angles(positions, *self._local)


def rotary_angles(
    positions: tf.Tensor, rotary_dim: int, theta: float, scaling: Mapping[str, Any] | None = None
) -> Angles:
    """The rotation of each position.

    Args:
        positions: int32 [B, T].
        rotary_dim: As in `RotaryPositions`.
        theta: As in `RotaryPositions`.
        scaling: As in `RotaryPositions`.

    Returns:
        Cosine and sine, float32 [B, T, 1, rotary_dim / 2].
    """
    frequencies, magnitude = scaled_frequencies(rotary_dim, theta, scaling)
    angles = tf.cast(positions, tf.float32)[..., None, None] * tf.constant(frequencies, tf.float32)
    cosine, sine = tf.cos(angles), tf.sin(angles)
    return (cosine, sine) if magnitude == 1.0 else (cosine * magnitude, sine * magnitude)


def rotate(x: tf.Tensor, angles: Angles) -> tf.Tensor:
    """Turns the pairs (i, i + rotary_dim / 2) of each head, the order Llama checkpoints use.

    Args:
        x: float [B, T, N, H].
        angles: From `rotary_angles`. What is behind the part they turn stays as it is.

    Returns:
        float [B, T, N, H], of the dtype of `x`; computed in float32.
    """
    cosine, sine = angles
    half = cosine.shape[-1]
    y = tf.cast(x, tf.float32)
    first, second = y[..., :half], y[..., half : 2 * half]
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    rest = [y[..., 2 * half :]] if 2 * half < x.shape[-1] else []
    return tf.cast(tf.concat([*turned, *rest], axis=-1), x.dtype)
