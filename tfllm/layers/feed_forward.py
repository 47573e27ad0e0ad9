"""The position-wise feed-forward network, plain or gated."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import keras
import tensorflow as tf

from tfllm.layers.activations import geglu, gelu_tanh, swiglu
from tfllm.layers.projection import Projection

_ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "gelu": functools.partial(tf.nn.gelu, approximate=False),
    "gelu_tanh": gelu_tanh,
    "relu": tf.nn.relu,
    "silu": tf.nn.silu,
}
_GATED: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {"swiglu": swiglu, "geglu": geglu}
GATED = tuple(_GATED)


def activate(activation: str, x: tf.Tensor) -> tf.Tensor:
    """Applies an activation without a gate, by its name, to float of any shape.

    Raises:
        ValueError: when it is not known.
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation={activation!r} is not known here; use one of {sorted(_ACTIVATIONS)}")
    return _ACTIVATIONS[activation](x)


def default_intermediate_dim(hidden_dim: int, activation: str) -> int:
    """Width inside where none is given: 4 D, or 8/3 D rounded up to 64 when gated."""
    return -(-8 * hidden_dim // 3 // 64) * 64 if activation in GATED else 4 * hidden_dim


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeedForwardOptions:
    """What stands in a block behind attention.

    Args:
        intermediate_dim: Width F inside.
        activation: gelu (exact), gelu_tanh, relu, silu, or gated swiglu, geglu.
        use_bias: Biases in the projections.
    """

    intermediate_dim: int
    activation: str = "gelu"
    use_bias: bool = False

    def make(self, name: str, **kwargs) -> FeedForward:
        """Returns the layer."""
        return FeedForward(options=self, name=name, **kwargs)


class FeedForward(keras.layers.Layer):
    """`down(act(up(x)))`, or gated `down(act(gate(x)) * up(x))` (Shazeer 2020).

    Args:
        options: Its width and activation.
        initializer_range: Standard deviation of new kernels.
        output_initializer_range: The same for `down`; None is `initializer_range`.
    """

    def __init__(
        self,
        options: FeedForwardOptions,
        *,
        initializer_range: float = 0.02,
        output_initializer_range: float | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        known = sorted({**_ACTIVATIONS, **_GATED})
        if options.activation not in known:
            raise ValueError(f"activation={options.activation!r} is not known; use one of {known}")
        self.activation = options.activation
        self._down_range = output_initializer_range or initializer_range
        self._shared = {"use_bias": options.use_bias, "dtype": self.dtype_policy}
        widths = {
            "units": options.intermediate_dim,
            "initializer_range": initializer_range,
            **self._shared,
        }
        self.gate = Projection(name="gate", **widths) if options.activation in GATED else None
        self.up = Projection(name="up", **widths)

    def build(self, input_shape):
        """Makes `up`, `down` and, where gated, `gate`."""
        self.down = Projection(
            units=input_shape[-1], initializer_range=self._down_range, name="down", **self._shared
        )
        if self.gate is not None:
            self.gate.build(input_shape)
        self.up.build(input_shape)
        self.down.build((*input_shape[:-1], self.up.units))

    def call(self, x: tf.Tensor, row_seeds: tf.Tensor | None = None) -> tf.Tensor:
        """Transforms float [B, T, D] -> the same; `row_seeds` as of `Projection`."""
        if self.gate is None:
            return self.down(activate(self.activation, self.up(x, row_seeds)), row_seeds)
        gate = self.gate(x, row_seeds)
        return self.down(_GATED[self.activation](gate, self.up(x, row_seeds)), row_seeds)
