"""Rotary frequencies, and the ways in which checkpoints stretch them for longer rows.

Four ways are in use, told apart by the `type` of a mapping:

- `linear` (Chen et al. 2023, "Extending Context Window of Large Language Models via Positional
  Interpolation"): every frequency divided by `factor`.
- `llama3` (Llama Team 2024, "The Llama 3 Herd of Models", and the code published with Llama 3.1): long waves,
  of fewer than `low_freq_factor` turns in `original_max_seq_len` tokens, are divided by `factor`; short ones, of more
  than `high_freq_factor` turns, stay; between the two it goes smoothly.
- `yarn` (Peng et al. 2023, "YaRN: Efficient Context Window Extension of Large Language Models", section 3): the same
  with a ramp over the index of the pair, from `beta_fast` to `beta_slow` turns; queries and keys are also
  multiplied by `attention_factor`, by default 0.1 ln(factor) + 1 (eq. 22).
- `factors` (Ding et al. 2024, "LongRoPE", with one list for all lengths; `rope_freqs.weight` of llama.cpp): each
  frequency divided by a factor of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def scaled_frequencies(
    rotary_dim: int, theta: float, scaling: Mapping[str, Any] | None = None
) -> tuple[list[float], float]:
    """The angle of each pair at position 1.

    Args:
        rotary_dim: Entries of a head that are turned, even.
        theta: Base of the geometric series of wavelengths.
        scaling: `type` and, with it, `factor`, and what the type needs of `original_max_seq_len`, `low_freq_factor`,
            `high_freq_factor`, `beta_fast`, `beta_slow`, `attention_factor`, `truncate`; or `factors`, one a pair. None
            does not scale.

    Returns:
        `rotary_dim / 2` angles, and what queries and keys are multiplied by.

    Raises:
        ValueError: when the type is not known, or there is not one factor for each pair.
    """
    frequencies = [theta ** (-pair / rotary_dim) for pair in range(0, rotary_dim, 2)]
    if scaling is None:
        return frequencies, 1.0
    kind = scaling["type"]
    if kind == "linear":
        return [frequency / scaling["factor"] for frequency in frequencies], 1.0
    if kind == "llama3":
        return [_llama3(frequency, scaling) for frequency in frequencies], 1.0
    if kind == "yarn":
        return _yarn(frequencies, rotary_dim, theta, scaling)
    if kind == "factors":
        return [each / factor for each, factor in zip(frequencies, scaling["factors"], strict=True)], 1.0
    raise ValueError(f"rope_scaling type={kind!r} is not known; use linear, llama3, yarn or factors")


def _llama3(frequency: float, scaling: Mapping[str, Any]) -> float:
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_seq_len"] * frequency / (2.0 * math.pi)
    kept = min(1.0, max(0.0, (turns - low) / (high - low)))
    return kept * frequency + (1.0 - kept) * frequency / scaling["factor"]


def _yarn(
    frequencies: list[float], rotary_dim: int, theta: float, scaling: Mapping[str, Any]
) -> tuple[list[float], float]:
    factor = scaling["factor"]

    def pair_of(turns: float) -> float:
        """The pair, counted in fractions, that turns so often in the original context."""
        wavelength = scaling["original_max_seq_len"] / (turns * 2.0 * math.pi)
        return rotary_dim * math.log(wavelength) / (2.0 * math.log(theta))

    first, last = pair_of(scaling["beta_fast"]), pair_of(scaling["beta_slow"])
    if scaling["truncate"]:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rotary_dim - 1)
    width = last - first or 0.001
    stretched = []
    for pair, frequency in enumerate(frequencies):
        divided = min(1.0, max(0.0, (pair - first) / width))
        stretched.append(divided * frequency / factor + (1.0 - divided) * frequency)
    magnitude = scaling["attention_factor"]
    if magnitude is None:
        magnitude = 0.1 * math.log(factor) + 1.0 if factor > 1.0 else 1.0
    return stretched, magnitude
