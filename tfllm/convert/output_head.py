"""An output layer that a file holds though its config says that the embedding is the output layer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tfllm.convert.config_table import Arguments
from tfllm.convert.errors import ConvertError
from tfllm.convert.family import Family
from tfllm.convert.tensors import Tensors
from tfllm.models.decoder import Decoder


def untied_if_held(
    family: Family, arguments: Arguments, open_tensors: Callable[[], Tensors]
) -> tuple[Arguments, tuple[str, ...]]:
    """Takes the file's word over the config's where it holds an output layer that is not the embedding.

    As transformers does, which ties no two tensors of a file that differ.

    Args:
        family: Of the checkpoint.
        arguments: Of our model, as the config says.
        open_tensors: Opens the checkpoint's tensors.

    Returns:
        The arguments, and what is to be said of them.
    """
    if not (issubclass(family.kind.model, Decoder) and arguments.get("tie_embeddings")):
        return arguments, ()
    apart = {**arguments, "tie_embeddings": False}
    heads = {row.theirs for row in family.rows(apart)}
    tied = [(row.theirs, copy) for row in family.rows(arguments) for copy in row.copies if copy in heads]
    try:
        tensors = open_tensors()
    except ConvertError:  # said when the weights are asked for
        return arguments, ()
    for embedding, head in tied:
        both = embedding in tensors.shapes and head in tensors.shapes
        if both and tensors.shapes[embedding] == tensors.shapes[head] and _differ(tensors, embedding, head):
            said = f"tie_word_embeddings=True, but {head} differs from {embedding}: the two were loaded apart"
            return apart, (said,)
    return arguments, ()


def _differ(tensors: Tensors, one: str, other: str) -> bool:
    return not np.array_equal(tensors.read(one), tensors.read(other))
