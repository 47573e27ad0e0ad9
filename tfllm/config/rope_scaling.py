"""How rotary positions are stretched for longer rows: a section inside that of a decoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from tfllm.config.errors import Problem
from tfllm.config.registry import Registry
from tfllm.config.setting import setting

ROPE_SCALINGS = Registry("rope_scaling")


@ROPE_SCALINGS.register("linear", builds=None)
@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearRopeScalingConfig:
    """All rotary wavelengths become longer by one factor."""

    type: str = "linear"
    factor: float = setting(help="how much longer", minimum=1.0)


@ROPE_SCALINGS.register("llama3", builds=None)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama3RopeScalingConfig:
    """Long rotary wavelengths become longer, short ones stay (Llama 3.1)."""

    type: str = "llama3"
    factor: float = setting(help="how much longer", minimum=1.0)
    original_max_seq_len: int = setting(help="context before the stretching, in tokens", minimum=1)
    low_freq_factor: float = setting(1.0, "turns in that context below which waves are stretched", above=0.0)
    high_freq_factor: float = setting(4.0, "turns in that context above which they stay", above=0.0)

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        if self.high_freq_factor <= self.low_freq_factor:
            rule = f"must be greater than {path}.low_freq_factor={self.low_freq_factor}"
            yield Problem(f"{path}.high_freq_factor", self.high_freq_factor, rule, "Llama 3.1 has 1 and 4")


@ROPE_SCALINGS.register("yarn", builds=None)
@dataclasses.dataclass(frozen=True, kw_only=True)
class YarnRopeScalingConfig:
    """As llama3, by the index of the pair, with stronger attention (Peng et al. 2023)."""

    type: str = "yarn"
    factor: float = setting(help="how much longer", minimum=1.0)
    original_max_seq_len: int = setting(help="context before the stretching, in tokens", minimum=1)
    beta_fast: float = setting(32.0, "turns in that context above which waves stay", above=0.0)
    beta_slow: float = setting(1.0, "turns in that context below which they are stretched", above=0.0)
    attention_factor: float | None = setting(
        None, "what queries and keys are multiplied by; null: 0.1 ln(factor) + 1", above=0.0
    )
    truncate: bool = setting(True, "the two bounds are rounded to whole pairs")


@ROPE_SCALINGS.register("factors", builds=None)
@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorsRopeScalingConfig:
    """Each rotary wavelength becomes longer by a factor of its own."""

    type: str = "factors"
    factors: tuple[float, ...] = setting(help="how much longer, a number for each pair that is turned")

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        for index, factor in enumerate(self.factors):
            if factor <= 0:
                yield Problem(
                    f"{path}.factors[{index}]", factor, "must be greater than 0", "1 leaves a wave as it is"
                )
