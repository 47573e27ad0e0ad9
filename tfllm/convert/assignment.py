"""The weights of a checkpoint put into a model that is there already, perhaps with other tokens or output layer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.convert.checkpoint import Checkpoint, checked_names
from tfllm.convert.errors import ConvertError
from tfllm.convert.weight_table import variables_by_path

# The layers of our models that are the output layer, or a part of it.
HEAD_LAYERS = ("output_projection", "logits_bias", "masked_lm_head", "classifier", "next_sentence")
# The layer before it that a new one may do without, or have where the checkpoint has none.
POOLER = "pooler"
# Variables whose size may differ, and the axis of it.
_SIZED = {
    "token_embedding/embeddings": 0,
    "output_projection/kernel": 1,
    "position_embedding/embeddings": 0,
}


def assign_weights(checkpoint: Checkpoint, model: Any, *, new_head: bool = False) -> None:
    """Reads a checkpoint's weights into a model, tensor by tensor.

    Tokens that the model has beyond those of the checkpoint begin as the mean of the others, so that at first they
    are no likelier than the others (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models").

    Args:
        checkpoint: From `read_checkpoint`.
        model: A built model with the checkpoint's arguments, but for the number of tokens, the longest context and
            the output layer.
        new_head: Leave the model's own output layer as it is, and read no pooler where it has none.

    Raises:
        ConvertError: when a file is damaged, or the model is another one; the model is then as it was.
    """
    tensors = checkpoint.open_tensors()
    names = checked_names(checkpoint, tensors)
    variables = variables_by_path(model)
    left = (*HEAD_LAYERS, *(() if has_pooler(model) else (POOLER,))) if new_head else ()
    rows = [
        row
        for row in checkpoint.family.rows(checkpoint.arguments)
        if row.theirs in names and row.ours[0].split("/")[0] not in left
    ]
    for row in rows:
        absent = [path for path in row.ours if path not in variables]
        if absent:
            raise ConvertError(
                f"{checkpoint.path}: the model has no {absent[0]}; take the model of the checkpoint"
            )
        expected = row.layout.shape([tuple(variables[path].shape) for path in row.ours])
        found = tensors.shapes[names[row.theirs]]
        if found != expected and row.ours[0] not in _SIZED:
            raise ConvertError(
                f"{checkpoint.path}: {names[row.theirs]} has {list(found)} and the model wants {list(expected)}; take"
                " the model of the checkpoint"
            )
    for row in rows:
        shapes = [tuple(variables[path].shape) for path in row.ours]
        for path, part in zip(
            row.ours, row.layout.split(tensors.read(names[row.theirs]), shapes), strict=True
        ):
            variable = variables[path]
            if path in _SIZED:
                part = RESIZED[path](part, tuple(variable.shape))
            variable.assign(tf.convert_to_tensor(part))


def copy_weights(
    source: Any,
    model: Any,
    *,
    leave: Collection[str] = (),
    resize: Mapping[str, Callable[[np.ndarray, tuple[int, ...]], np.ndarray]],
) -> None:
    """Copies the weights of one model into another, by their paths.

    Args:
        source: A built model.
        model: The other, built; it may have fewer layers.
        leave: Layers, wherever they stand, whose variables stay as they are.
        resize: Variables that may be of another shape, and what makes the shape wanted of their value.

    Raises:
        ConvertError: when the other is another model; it is then as it was.
    """
    there, values = variables_by_path(source), {}
    for path, variable in variables_by_path(model).items():
        if set(path.split("/")) & set(leave):
            continue
        value = None if path not in there else np.asarray(there[path])
        if value is not None and value.shape != tuple(variable.shape) and path in resize:
            value = resize[path](value, tuple(variable.shape))
        if value is None or value.shape != tuple(variable.shape):
            raise ConvertError(
                f"{path} is {'not there' if value is None else list(value.shape)} in the source, and the model wants"
                f" {list(variable.shape)}; take the model of the source"
            )
        values[path] = variable, value
    for variable, value in values.values():
        variable.assign(tf.convert_to_tensor(value))


def has_pooler(model: Any) -> bool:
    """Whether a dense layer stands between a row's vector and the output layer."""
    return getattr(model, POOLER, None) is not None


def _resized(array: np.ndarray, size: int, axis: int) -> np.ndarray:
    have = array.shape[axis]
    if size <= have:
        return array if size == have else np.take(array, np.arange(size), axis)
    mean = np.mean(array, axis, keepdims=True, dtype=np.float32).astype(array.dtype)
    return np.concatenate([array, np.repeat(mean, size - have, axis)], axis)


def _along(axis: int) -> Callable[[np.ndarray, tuple[int, ...]], np.ndarray]:
    return lambda array, shape: _resized(array, shape[axis], axis)


# What makes another shape of each of them.
RESIZED = {path: _along(axis) for path, axis in _SIZED.items()}
