"""The tensor by which GGUF files say how rotary frequencies are stretched: `rope_freqs.weight`, a factor for each pair.

llama.cpp divides each frequency by its factor (`ggml_rope_ext`). Its converter writes the factors of Llama 3.1 and
later so, and says nothing of them in the keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.convert.errors import ConvertError
from tfllm.layers.positions.rotary_scaling import scaled_frequencies

FACTORS = "rope_freqs.weight"
# Factors for short rows and for long ones, between which llama.cpp chooses by the length of a context.
OF_LENGTHS = ("rope_factors_short.weight", "rope_factors_long.weight")
# As published with Llama 3.1, 3.2 and 3.3: the share of stretching is in the factors themselves.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3_CONTEXT = 8192


def rope_section_of(
    path: Path, factors: np.ndarray, section: Mapping[str, Any], theta: Any
) -> dict[str, Any] | None:
    """transformers' words for the factors: llama3 where they are its, else longrope with one list.

    Args:
        path: The file, for messages.
        factors: float [rotary_dim / 2].
        section: What the keys say of stretching.
        theta: Base of the frequencies.

    Returns:
        The `rope_scaling` of a config, or None where nothing is stretched.

    Raises:
        ConvertError: when the factors are damaged, or stand beside what they cannot be joined with.
    """
    if type(theta) not in (int, float) or not theta > 0:
        raise ConvertError(f"{path}: rope.freq_base={theta!r} must be a number above 0")
    kind = section.get("rope_type", "none")
    if kind not in ("none", "linear"):
        raise ConvertError(f"{path}: {FACTORS} beside rope.scaling.type={kind!r} is not implemented in tfllm")
    if factors.ndim != 1 or not np.all(np.isfinite(factors) & (factors > 0)):
        raise ConvertError(f"{path}: {FACTORS} must be a list of numbers above 0; download it again")
    linear = section.get("factor", 1.0)
    if type(linear) not in (int, float) or not linear >= 1:
        raise ConvertError(f"{path}: rope.scaling.factor={linear!r} must be a number of at least 1")
    numbers = [float(factor) * linear for factor in factors]
    if all(number == 1.0 for number in numbers):
        return None
    largest = max(numbers)
    if largest >= 1.0:
        ours = {"type": "llama3", "factor": largest, "original_max_seq_len": _LLAMA3_CONTEXT, **_LLAMA3}
        plain, _ = scaled_frequencies(2 * len(numbers), theta, None)
        stretched, _ = scaled_frequencies(2 * len(numbers), theta, ours)
        if all(
            math.isclose(before / after, number, rel_tol=1e-6)
            for before, after, number in zip(plain, stretched, numbers, strict=True)
        ):
            context = {"original_max_position_embeddings": _LLAMA3_CONTEXT}
            return {"rope_type": "llama3", "factor": largest, **context, **_LLAMA3}
    lists = {"short_factor": numbers, "long_factor": numbers, "attention_factor": 1.0}
    return {"rope_type": "longrope", "factor": 1.0, **lists}
