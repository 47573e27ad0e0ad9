"""The output layer that a file holds, where its config says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tfllm.convert.config_table import Arguments
from tfllm.convert.errors import ConvertError
from tfllm.convert.family import Family
from tfllm.convert.tensors import Tensors
from tfllm.models.decoder import Decoder


def with_held_head(
    family: Family, arguments: Arguments, architectures: Any, open_tensors: Callable[[], Tensors]
) -> tuple[Arguments, tuple[str, ...]]:
    """Takes the file's word over the config's for whether the embedding is the output layer too.

    It is not where the file holds another beside it: transformers ties no two tensors of a file that differ. It
    stands in where the checkpoint is one without an output layer, such as those that make vectors of texts.

    Args:
        family: Of the checkpoint.
        arguments: Of our model, as the config says.
        architectures: What the config says under this name.
        open_tensors: Opens the checkpoint's tensors.

    Returns:
        The arguments, and what is to be said of them.
    """
    if not issubclass(family.kind.model, Decoder) or "tie_embeddings" not in arguments:
        return arguments, ()
    tied, apart = ({**arguments, "tie_embeddings": value} for value in (True, False))
    head = next(
        iter({row.theirs for row in family.rows(apart)} - {row.theirs for row in family.rows(tied)}), ""
    )
    try:
        tensors = open_tensors()
    except ConvertError:  # said when the weights are asked for
        return arguments, ()
    if not arguments["tie_embeddings"]:
        names = architectures if isinstance(architectures, list) else []
        if head in tensors.shapes or not names or not all(map(_is_bare, names)):
            return arguments, ()
        said = f"architectures={names}: the checkpoint has no output layer, and its embedding stands in"
        return tied, (said,)
    embeddings = [row.theirs for row in family.rows(tied) if head in row.copies]
    for embedding in embeddings:
        both = embedding in tensors.shapes and head in tensors.shapes
        if both and tensors.shapes[embedding] == tensors.shapes[head] and _differ(tensors, embedding, head):
            said = f"tie_word_embeddings=True, but {head} differs from {embedding}: the two were loaded apart"
            return apart, (said,)
    return arguments, ()


def _is_bare(architecture: Any) -> bool:
    """Whether a class of transformers is a model without an output layer: `LlamaModel`, not `GPT2LMHeadModel`."""
    return isinstance(architecture, str) and architecture.endswith("Model") and "Head" not in architecture


def _differ(tensors: Tensors, one: str, other: str) -> bool:
    return not np.array_equal(tensors.read(one), tensors.read(other))
