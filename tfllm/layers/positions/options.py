"""The kinds of positions, as options that make their layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras

from tfllm.layers.positions.learned import LearnedPositions
from tfllm.layers.positions.position_layer import PositionLayer
from tfllm.layers.positions.relative import RelativeBias
from tfllm.layers.positions.rotary import RotaryPositions
from tfllm.layers.positions.sinusoidal import SinusoidalPositions

KINDS = ("learned", "sinusoidal", "rotary", "relative", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PositionOptions:
    """How a model knows where a token stands.

    Args:
        kind: learned, sinusoidal, rotary, relative or none.
        max_seq_len: Positions of a table; of learned and sinusoidal.
        offset: Rows of a learned table before that of position 0.
        rotary_dim: As in `RotaryPositions`; None is the whole head.
        theta: The same.
        scaling: The same.
        local_theta: The same.
        num_buckets: As in `RelativeBias`.
        max_distance: The same.
        bidirectional: The same.

    Raises:
        ValueError: when the kind is not known, or a table has no length.
    """

    kind: str = "none"
    max_seq_len: int | None = None
    offset: int = 0
    rotary_dim: int | None = None
    theta: float = 10_000.0
    scaling: Mapping[str, Any] | None = None
    local_theta: float | None = None
    num_buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = True

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(
                f"positions={self.kind!r} is not known; use {', '.join(KINDS[:-1])} or {KINDS[-1]}"
            )
        if self.max_seq_len is None and self.kind in ("learned", "sinusoidal"):
            raise ValueError(f"positions={self.kind!r} needs max_seq_len; relative positions have no limit")

    def make(
        self,
        *,
        hidden_dim: int,
        num_heads: int,
        head_dim: int,
        initializer_range: float,
        dtype: keras.DTypePolicy,
    ) -> PositionLayer:
        """Returns the layer; it has variables only where something is learned."""
        table: dict[str, Any] = {"name": "position_embedding", "hidden_dim": hidden_dim, "dtype": dtype}
        table["max_seq_len"] = self.max_seq_len
        if self.kind == "learned":
            return LearnedPositions(offset=self.offset, initializer_range=initializer_range, **table)
        if self.kind == "sinusoidal":
            return SinusoidalPositions(**table)
        if self.kind == "rotary":
            return RotaryPositions(
                rotary_dim=self.rotary_dim or head_dim,
                theta=self.theta,
                scaling=self.scaling,
                local_theta=self.local_theta,
                name="rotary",
                dtype=dtype,
            )
        if self.kind == "relative":
            return RelativeBias(
                num_heads=num_heads,
                num_buckets=self.num_buckets,
                max_distance=self.max_distance,
                bidirectional=self.bidirectional,
                initializer_range=initializer_range,
                name="relative_bias",
                dtype=dtype,
            )
        return PositionLayer(name="positions", dtype=dtype)
