"""What the sections of models check of their heads, rotary positions and windows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfllm.config.errors import Problem
from tfllm.config.rope_scaling import FactorsRopeScalingConfig


def head_problems(section: Any, path: str, name: str = "num_heads") -> Iterator[Problem]:
    """Yields what is wrong about a number of heads.

    Args:
        section: Has `hidden_dim`, `head_dim` and `num_kv_heads`.
        path: Where the section stands.
        name: Its key of the number of query heads.
    """
    heads, kv_heads = getattr(section, name), section.num_kv_heads
    if section.head_dim is None and section.hidden_dim % heads:
        rule = f"must divide {path}.hidden_dim={section.hidden_dim}"
        mend = f"try {_near_divisors(section.hidden_dim, heads)}, or set {path}.head_dim"
        yield Problem(f"{path}.{name}", heads, rule, mend)
    if kv_heads and heads % kv_heads:
        rule = f"must be divisible by {path}.num_kv_heads={kv_heads}"
        mend = f"try {path}.num_kv_heads {_near_divisors(heads, kv_heads)}"
        yield Problem(f"{path}.{name}", heads, rule, mend)


def rotary_problems(section: Any, path: str, name: str = "num_heads") -> Iterator[Problem]:
    """Yields what is wrong about rotary positions; arguments as those of `head_problems`."""
    head_dim = section.head_dim or section.hidden_dim // getattr(section, name)
    if section.positions == "rotary" and head_dim % 2:
        name, value = ("head_dim", section.head_dim) if section.head_dim else (name, getattr(section, name))
        rule = f"gives heads of width {head_dim}, and rotary positions turn pairs"
        yield Problem(f"{path}.{name}", value, rule, "make the width of a head even")
    if section.rotary_dim and (section.rotary_dim % 2 or section.rotary_dim > head_dim):
        rule = f"must be even and at most {head_dim}, the width of a head"
        yield Problem(f"{path}.rotary_dim", section.rotary_dim, rule, f"try {head_dim // 4 * 2}")
    turned, scaling = (section.rotary_dim or head_dim) // 2, section.rope_scaling
    if isinstance(scaling, FactorsRopeScalingConfig) and len(scaling.factors) != turned:
        rule = f"must be one for each of the {turned} pairs that are turned"
        yield Problem(f"{path}.rope_scaling.factors", list(scaling.factors), rule, f"write {turned} numbers")


def window_problems(section: Any, path: str, key: str = "num_layers") -> Iterator[Problem]:
    """Yields what is wrong about a sliding window.

    Args:
        section: Has `sliding_window`, `sliding_layers` and perhaps `rope_local_theta`.
        path: Where the section stands.
        key: Its key of the number of blocks.
    """
    blocks = getattr(section, key)
    for index in section.sliding_layers or ():
        if not 0 <= index < blocks:
            rule = f"must be the index of one of {path}.{key}={blocks} blocks"
            yield Problem(f"{path}.sliding_layers", index, rule, f"write 0 to {blocks - 1}")
    local = getattr(section, "rope_local_theta", None)
    if section.sliding_window is None and (section.sliding_layers is not None or local):
        name, value = (
            ("rope_local_theta", local)
            if section.sliding_layers is None
            else ("sliding_layers", section.sliding_layers)
        )
        rule = f"means nothing without {path}.sliding_window"
        yield Problem(f"{path}.{name}", value, rule, f"set {path}.sliding_window, or leave it out")


def relative_problems(section: Any, path: str, *, causal: bool) -> Iterator[Problem]:
    """Yields what is wrong about buckets of relative positions; a causal side has all of them for the past."""
    exact = section.relative_num_buckets // 4
    if section.positions != "relative":
        return
    if exact < 1:
        rule = "must be at least 4, of which half are for tokens behind"
        yield Problem(f"{path}.relative_num_buckets", section.relative_num_buckets, rule, "T5 has 32")
    own = max(exact, section.relative_num_buckets // 2 if causal else 0)
    if exact and section.relative_max_distance <= own:
        rule = f"must be greater than {own}, the distances that have a bucket of their own"
        yield Problem(f"{path}.relative_max_distance", section.relative_max_distance, rule, "T5 has 128")


def _near_divisors(number: int, wanted: int) -> str:
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    return " or ".join(str(d) for d in sorted(sorted(divisors, key=lambda d: abs(d - wanted))[:2]))
