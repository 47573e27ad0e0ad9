"""Adapters: narrow networks behind what a block's branches make, beside weights that stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfllm.layers.bottleneck import Bottleneck
from tfllm.peft.errors import PeftError
from tfllm.peft.targets import projections, train_only

NAME = "adapter"
_LAST = ("output", "down")  # the projections with which attention and feed-forward end


class Adapters:
    """Puts a narrow network behind attention and feed-forward of every block (Houlsby et al. 2019).

    Args:
        width: Width inside.
        activation: Function inside, as `activate` knows it.
        train: Globs over the paths of variables that are trained as they are.
    """

    def __init__(self, *, width: int, activation: str = "gelu", train: Sequence[str] = ()):
        self.width, self.activation, self.train = width, activation, tuple(train)

    def attach(self, model: Any, *, with_head: bool = False) -> None:
        """Changes a built model: what is added is zero at first, and all else is frozen.

        Args:
            model: The model.
            with_head: Its head is new, and trained whole.

        Raises:
            PeftError: when the model has no such blocks, or a pattern matches nothing.
        """
        there = projections(model)
        found = [each for path, each in there.items() if _is_last(path)]
        if not found:
            raise PeftError(
                "peft.type=adapters stands behind the branches of blocks, and this model has none; freeze a part of it"
            )
        added: list[Any] = []
        for projection in found:
            layer = Bottleneck(
                units=projection.units,
                width=self.width,
                activation=self.activation,
                name=NAME,
                dtype=projection.dtype_policy,
            )
            projection.add_beside(layer)
            added += layer.weights
        train_only(model, added, patterns=self.train, with_head=with_head)


def _is_last(path: str) -> bool:
    return "/block_" in path and path.rpartition("/")[2] in _LAST
