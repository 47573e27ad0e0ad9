"""One of tfllm's models, as what families of checkpoints are read into."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from tfllm.convert.config_table import Arguments

# Arguments that say how a model is trained, not what it computes.
_TRAINING = ("attention_block_size", "dropout", "initializer_range", "name", "remat")


@dataclasses.dataclass(frozen=True)
class ModelKind:
    """A model's class, and what the families that are read into it have in common.

    Args:
        model: The class; it takes `Arguments`, `dtype` and `initializer_range`.
        resolved: Arguments with every default filled in, what has no effect brought to one form, and without those
            that concern training only: two models compute the same if these are equal.
        matrices: Names and numbers of entries of the largest matrices, known from the arguments alone.
        check: Says what is wrong about the arguments, or nothing.
    """

    model: type[Any]
    resolved: Callable[[Arguments], Arguments]
    matrices: Callable[[Arguments], list[tuple[str, int]]]
    check: Callable[[Arguments], str | None] = lambda arguments: None


def without_effect(full: Arguments, head_dim: int | None, *, layers: int | None) -> Arguments:
    """What of rotary positions and windows has no effect beside other arguments, brought to one form.

    Args:
        full: Arguments with every default filled in.
        head_dim: Width of a head; None where it is not the same in all blocks.
        layers: Blocks; None where they are of two stacks.
    """
    window, sliding = full["sliding_window"], full["sliding_layers"]
    if sliding is None and layers is not None:
        sliding = range(layers)
    if not window or (sliding is not None and not sliding):
        window = sliding = None
    made: Arguments = {
        "sliding_window": window,
        "sliding_layers": None if sliding is None else tuple(sorted(sliding)),
        "rotary_dim": full["rotary_dim"] or head_dim,
    }
    if full["positions"] != "rotary":
        made.update(rotary_dim=None, rope_theta=None, rope_scaling=None)
    if "rope_local_theta" in full:
        same = full["rope_local_theta"] == full["rope_theta"] and full["rope_scaling"] is None
        if window is None or same or full["positions"] != "rotary":
            made["rope_local_theta"] = None
    return made


def with_defaults(model: type[Any], arguments: Arguments) -> Arguments:
    """Arguments of a model's constructor with its defaults filled in, without those that concern training."""
    defaults = model.defaults().items()
    return {name: arguments.get(name, default) for name, default in defaults if name not in _TRAINING}
