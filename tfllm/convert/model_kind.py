"""One of tfllm's models, as what families of checkpoints are read into."""

from __future__ import annotations

import dataclasses
import inspect
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


def with_defaults(model: type[Any], arguments: Arguments) -> Arguments:
    """Arguments of a model's constructor with its defaults filled in, without those that concern training."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(model.__init__).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    return {name: arguments.get(name, default) for name, default in defaults.items() if name not in _TRAINING}
