"""Rows of a family's table of weights, each read both ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one tensor there holds one or more variables here.

    Args:
        shape: Of the variables' shapes, the tensor's.
        split: The tensor into arrays, one a variable.
        join: The inverse.
    """

    shape: Callable[[Sequence[Shape]], Shape]
    split: Callable[[np.ndarray, Sequence[Shape]], list[np.ndarray]]
    join: Callable[[Sequence[np.ndarray]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor of the checkpoint.

    Args:
        theirs: Its name.
        ours: Paths of the variables it holds, without the model's own name.
        layout: How it holds them.
        copies: Further names under which files hold the same tensor, beside it or in its place.
        optional: Files may lack it; then its variables stay as new ones are.
        written_only: Others read it, and where we read the same from another row it may be missing, or differ.
    """

    theirs: str
    ours: tuple[str, ...]
    layout: Layout
    copies: tuple[str, ...] = ()
    optional: bool = False
    written_only: bool = False


AS_IS = Layout(
    shape=lambda shapes: shapes[0],
    split=lambda tensor, shapes: [tensor],
    join=lambda arrays: arrays[0],
)
# PyTorch's Linear keeps [outputs, inputs], a Projection [inputs, outputs].
TRANSPOSED = Layout(
    shape=lambda shapes: shapes[0][::-1],
    split=lambda tensor, shapes: [tensor.T],
    join=lambda arrays: np.ascontiguousarray(arrays[0].T),
)
# A vector kept as a matrix of one row.
ONE_ROW = Layout(
    shape=lambda shapes: (1, *shapes[0]),
    split=lambda tensor, shapes: [tensor[0]],
    join=lambda arrays: arrays[0][None],
)
# Several side by side along the last axis, as GPT-2's query, key and value are.
SIDE_BY_SIDE = Layout(
    shape=lambda shapes: (*shapes[0][:-1], sum(shape[-1] for shape in shapes)),
    split=lambda tensor, shapes: np.split(tensor, np.cumsum([shape[-1] for shape in shapes])[:-1], axis=-1),
    join=lambda arrays: np.concatenate(arrays, axis=-1),
)


def by_heads(num_heads: int) -> Layout:
    """Query, key and value of the first head, then those of the next, as GPT-NeoX keeps them, in a Linear's order."""

    def shape(shapes: Sequence[Shape]) -> Shape:
        return (sum(each[-1] for each in shapes), *shapes[0][:-1])

    def split(tensor: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        parts = tensor.reshape(num_heads, len(shapes), -1, *tensor.shape[1:])
        flat = [parts[:, i].reshape(-1, *tensor.shape[1:]) for i in range(len(shapes))]
        return [part.T for part in flat]

    def join(arrays: Sequence[np.ndarray]) -> np.ndarray:
        heads = [array.T.reshape(num_heads, -1, *array.shape[:-1]) for array in arrays]
        return np.concatenate(heads, axis=1).reshape(-1, *arrays[0].shape[:-1])

    return Layout(shape, split, join)


def embedding(theirs: str, *, tied_to: str | None) -> Row:
    """The row of the token embedding, of which `tied_to` may be a copy: an output layer that is not one."""
    return Row(theirs, ("token_embedding/embeddings",), AS_IS, copies=() if tied_to is None else (tied_to,))


def linear(theirs: str, ours: str, *, bias: bool, layout: Layout = TRANSPOSED) -> list[Row]:
    """The rows of a projection: `<theirs>.weight` and, where there is one, `<theirs>.bias`."""
    rows = [Row(f"{theirs}.weight", (f"{ours}/kernel",), layout)]
    return [*rows, Row(f"{theirs}.bias", (f"{ours}/bias",), AS_IS)] if bias else rows


def layer_norm(theirs: str, ours: str, *, bias: bool = True) -> list[Row]:
    """The rows of a LayerNorm."""
    rows = [Row(f"{theirs}.weight", (f"{ours}/scale",), AS_IS)]
    return [*rows, Row(f"{theirs}.bias", (f"{ours}/bias",), AS_IS)] if bias else rows


def rms_norm(theirs: str, ours: str) -> Row:
    """The row of an RMSNorm."""
    return Row(f"{theirs}.weight", (f"{ours}/scale",), AS_IS)


def variables_by_path(model: Any) -> dict[str, Any]:
    """A model's variables by their paths without the model's own name: `block_03/attention/query/kernel`."""
    return {variable.path.split("/", 1)[1]: variable for variable in model.variables}
