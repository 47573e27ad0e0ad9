"""LoRA: matrices of low rank beside those of a model, which stay as they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfllm.layers.low_rank import LowRank
from tfllm.layers.stored_kernel import floats
from tfllm.peft.errors import PeftError
from tfllm.peft.targets import chosen, first_named, low_rank_layers, train_only

NAME = "lora"


class Lora:
    """Puts a matrix of low rank beside others (Hu et al. 2021).

    Args:
        rank: Its rank r.
        alpha: What it adds is multiplied by alpha / r, or with `scaling` rslora by alpha / √r (Kalajdzievski 2023).
        dropout: Share of the input that is dropped on the way through it.
        targets: The projections, as in `chosen`.
        scaling: standard or rslora.
        rank_pattern: Other ranks, by names or globs of projections; the first that fits.
        alpha_pattern: The same of alpha.
        train: Globs over the paths of variables that are trained as they are.
    """

    def __init__(
        self,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        targets: Sequence[str] = ("all",),
        scaling: str = "standard",
        rank_pattern: Mapping[str, int] | None = None,
        alpha_pattern: Mapping[str, float] | None = None,
        train: Sequence[str] = (),
    ):
        self.rank, self.alpha, self.dropout, self.scaling = rank, alpha, dropout, scaling
        self.targets, self.train = tuple(targets), tuple(train)
        self.rank_pattern, self.alpha_pattern = dict(rank_pattern or {}), dict(alpha_pattern or {})

    def attach(self, model: Any, *, with_head: bool = False) -> None:
        """Changes a built model: what is added is zero at first, and all else is frozen.

        Args:
            model: The model.
            with_head: Its head is new, and trained whole.

        Raises:
            PeftError: a target or a pattern names nothing, or a matrix has no such rank.
        """
        found = chosen(model, self.targets)
        for key in ("rank_pattern", "alpha_pattern"):
            self._check_used(key, found)
        layers = {path: self._beside(path, projection) for path, projection in found.items()}
        for path, layer in layers.items():
            found[path].add_beside(layer)
        added = [variable for layer in layers.values() for variable in (layer.a, layer.b)]
        train_only(model, added, patterns=self.train, with_head=with_head)

    def _check_used(self, key: str, paths: Collection[str]) -> None:
        patterns = getattr(self, key)
        used = {first_named(patterns, path) for path in paths}
        for pattern in patterns:
            if pattern not in used:
                raise PeftError(
                    f"peft.{key}.{pattern} fits none of the {len(paths)} projections that peft.targets names, or only"
                    " such as a pattern before it fits; leave it out"
                )

    def _beside(self, path: str, projection: Any) -> LowRank:
        rank = self.rank_pattern.get(first_named(self.rank_pattern, path) or "", self.rank)
        alpha = self.alpha_pattern.get(first_named(self.alpha_pattern, path) or "", self.alpha)
        rows, columns = projection.kernel.shape
        if rank > min(rows, columns):
            raise PeftError(
                f"peft.rank={rank} exceeds the rank that {path}, a matrix of {rows} x {columns}, can have;"
                f" write at most {min(rows, columns)}"
            )
        return LowRank(
            units=projection.units,
            rank=rank,
            scale=alpha / (rank**0.5 if self.scaling == "rslora" else rank),
            dropout=self.dropout,
            name=NAME,
            dtype=projection.dtype_policy,
        )


def copy_merged(model: Any, plain: Any) -> None:
    """Copies weights into a model of the same shape that has nothing beside its matrices: they are added to these.

    In float32, and then cast to the type of the weights.

    Args:
        model: The model.
        plain: The other, built.
    """
    weights = {variable.path: variable for variable in model.variables}
    beside = low_rank_layers(model)
    for variable in plain.variables:
        value = floats(weights[variable.path])
        layer = beside.get(variable.path.removesuffix("/kernel"))
        if layer is not None and variable.path.endswith("/kernel"):
            value += layer.product()
        variable.assign(tf.cast(value, variable.dtype))
