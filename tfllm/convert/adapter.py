"""An adapter: matrices of low rank beside those of a model, and what was trained whole, as PEFT's files hold them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.convert.weight_table import Row, Shape

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
WEIGHT, KERNEL = ".weight", "/kernel"


@dataclasses.dataclass(frozen=True)
class LowRankPair:
    """What stands beside one tensor of a checkpoint, as PyTorch's Linear keeps it.

    Args:
        row: The row of the tensor, which may hold several matrices of ours.
        a: float [r, D].
        b: float [F, r], F over all of the row's matrices.
        alpha: What their product is multiplied by is made of this and of r.
    """

    row: Row
    a: np.ndarray
    b: np.ndarray
    alpha: float

    def split(self, shapes: list[Shape]) -> list[tuple[np.ndarray, np.ndarray]]:
        """A float [D, r] and B float [r, F] for each of the row's matrices, whose shapes [D, F] are given."""
        rank = len(self.a)
        tensor = self.b.T if keeps_inputs_first(self.row) else self.b
        parts = self.row.layout.split(tensor, [(rank, shape[-1]) for shape in shapes])
        return [(np.ascontiguousarray(self.a.T), part) for part in parts]


@dataclasses.dataclass(frozen=True)
class Adapter:
    """An adapter, before it is put beside a model.

    Args:
        path: Its folder.
        pairs: What stands beside tensors of the base.
        whole: Tensors that were trained whole, each with its row.
        rank: The rank that it has where nothing else is said.
        alpha: The same of alpha.
        scaling: standard or rslora.
        dropout: Share of the input that was dropped on the way through it.
        base: What its base was called, if that is said.
        task_type: PEFT's word for what it does, such as CAUSAL_LM.
    """

    path: Path
    pairs: tuple[LowRankPair, ...]
    whole: tuple[tuple[Row, np.ndarray], ...]
    rank: int
    alpha: float
    scaling: str
    dropout: float
    base: str | None
    task_type: str | None


def modules(rows: Iterable[Row]) -> dict[str, Row]:
    """The rows that hold matrices of projections, by the names of their modules."""
    return {
        row.theirs.removesuffix(WEIGHT): row
        for row in rows
        if row.theirs.endswith(WEIGHT) and all(path.endswith(KERNEL) for path in row.ours)
    }


def keeps_inputs_first(row: Row) -> bool:
    """Whether a tensor is [inputs, outputs], as GPT-2's are, and not [outputs, inputs]."""
    inputs, outputs = 3, 12
    return row.layout.shape([(inputs, outputs)] * len(row.ours))[0] == inputs


def assigned(
    adapter: Adapter, variables: Mapping[str, Any], *, name: str
) -> Iterable[tuple[Any, np.ndarray]]:
    """Yields variables of a model and the values that an adapter has for them.

    Args:
        adapter: The adapter.
        variables: Of the model, by path without its own name.
        name: Of the layer beside a projection, which holds `a` and `b`.
    """
    for pair in adapter.pairs:
        paths = [path.removesuffix(KERNEL) for path in pair.row.ours]
        shapes = [tuple(variables[path].shape) for path in pair.row.ours]
        for path, (a, b) in zip(paths, pair.split(shapes), strict=True):
            yield variables[f"{path}/{name}/a"], a
            yield variables[f"{path}/{name}/b"], b
    for row, tensor in adapter.whole:
        shapes = [tuple(variables[path].shape) for path in row.ours]
        for path, part in zip(row.ours, row.layout.split(tensor, shapes), strict=True):
            yield variables[path], part
