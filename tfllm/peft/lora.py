"""LoRA: matrices of low rank beside those of a model, which stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfllm.layers.low_rank import LowRank
from tfllm.peft.errors import PeftError
from tfllm.peft.targets import chosen, projections, train_only

NAME = "lora"


class Lora:
    """Puts a matrix of low rank beside others (Hu et al. 2021).

    Args:
        rank: Its rank r.
        alpha: What it adds is multiplied by alpha / r, or with `scaling` rslora by alpha / √r (Kalajdzievski 2023).
        dropout: Share of the input that is dropped on the way through it.
        targets: The projections, as in `chosen`.
        scaling: standard or rslora.
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
        train: Sequence[str] = (),
    ):
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.targets, self.train = tuple(targets), tuple(train)
        self.scale = alpha / (rank**0.5 if scaling == "rslora" else rank)

    def attach(self, model: Any, *, with_head: bool = False) -> None:
        """Changes a built model: what is added is zero at first, and all else is frozen.

        Args:
            model: The model.
            with_head: Its head is new, and trained whole.

        Raises:
            PeftError: a target is not there, or its matrix has no such rank.
        """
        found = chosen(model, self.targets)
        for path, projection in found.items():
            rows, columns = projection.kernel.shape
            if self.rank > min(rows, columns):
                raise PeftError(
                    f"peft.rank={self.rank} exceeds the rank that {path}, a matrix of {rows} x {columns}, can have;"
                    f" write at most {min(rows, columns)}"
                )
        added: list[Any] = []
        for projection in found.values():
            layer = LowRank(
                units=projection.units,
                rank=self.rank,
                scale=self.scale,
                dropout=self.dropout,
                name=NAME,
                dtype=projection.dtype_policy,
            )
            projection.add_beside(layer)
            added += [layer.a, layer.b]
        train_only(model, added, patterns=self.train, with_head=with_head)


def copy_merged(model: Any, plain: Any) -> None:
    """Copies weights into a model of the same shape that has nothing beside its matrices: they are added to these.

    In float32, and then cast to the type of the weights.

    Args:
        model: The model.
        plain: The other, built.
    """
    weights = {variable.path: variable for variable in model.variables}
    beside = {path: each.beside for path, each in projections(model).items() if each.beside is not None}
    for variable in plain.variables:
        value = tf.convert_to_tensor(weights[variable.path])
        layer = beside.get(variable.path.removesuffix("/kernel"))
        if layer is not None and variable.path.endswith("/kernel"):
            value = tf.cast(value, tf.float32) + layer.product()
        variable.assign(tf.cast(value, variable.dtype))
