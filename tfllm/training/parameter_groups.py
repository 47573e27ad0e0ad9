"""Which variables are trained, how fast, and with how much decay."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import keras

from tfllm.training.errors import TrainingError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Variables with settings of their own.

    Args:
        pattern: A glob over variable paths, e.g. `decoder/block_0[0-3]/*`; `*` matches slashes too.
        learning_rate_scale: Their learning rate over everybody's.
        weight_decay: Their decay instead of everybody's, where decay applies at all; None keeps it.
        freeze: Do not train them.
    """

    pattern: str
    learning_rate_scale: float = 1.0
    weight_decay: float | None = None
    freeze: bool = False


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A variable that is trained.

    Args:
        variable: The model's.
        rate_scale: Its learning rate over the schedule's.
        decay: Its weight decay a unit of its learning rate.
    """

    variable: keras.Variable
    rate_scale: float
    decay: float


def trained_parameters(
    variables: Iterable[keras.Variable],
    *,
    weight_decay: float = 0.0,
    decay_embeddings: bool = False,
    groups: Sequence[ParameterGroup] = (),
    layer_decay: float = 1.0,
) -> list[Parameter]:
    """Settles learning rate and decay of every variable.

    Args:
        variables: The model's trainable variables.
        weight_decay: Decay a unit of learning rate; never applied to norms and biases.
        decay_embeddings: Apply it to embedding tables too.
        groups: The first whose pattern matches rules.
        layer_decay: Each block's learning rate over that of the block above it (see `depths`).

    Returns:
        The variables left to train, in order.

    Raises:
        TrainingError: when a group rules no variable, or nothing is left to train.
    """
    variables = list(variables)
    paths = [variable.path for variable in variables]
    ruling = [_first_match(path, groups) for path in paths]
    for index, group in enumerate(groups):
        if group not in ruling:
            raise TrainingError(_idle_group(index, group, paths))
    depth = depths(paths) if layer_decay != 1.0 else [0] * len(paths)
    parameters = []
    for variable, own, below in zip(variables, ruling, depth, strict=True):
        if own is not None and own.freeze:
            continue
        scale, decay = layer_decay**below, weight_decay
        if own is not None:
            scale *= own.learning_rate_scale
            decay = weight_decay if own.weight_decay is None else own.weight_decay
        if not decays(variable, decay_embeddings=decay_embeddings):
            decay = 0.0
        parameters.append(Parameter(variable, scale, decay))
    if not parameters:
        frozen = ", ".join(repr(group.pattern) for group in groups if group.freeze)
        raise TrainingError(
            f"optimizer.groups freezes all {len(paths)} variables (by {frozen}), so nothing is left to train;"
            f" narrow a pattern"
            if paths
            else "the model has no trainable variables, so nothing is left to train"
        )
    return parameters


def decays(variable: keras.Variable, *, decay_embeddings: bool) -> bool:
    """Whether weight decay applies: to matrices, and to embedding tables where asked for."""
    if variable.path.rpartition("/")[2] == "embeddings":
        return decay_embeddings
    return len(variable.shape) >= 2


def depths(paths: Sequence[str]) -> list[int]:
    """How far below the top each variable lies, for layer-wise decay of the learning rate.

    Final norm and output are the top, 0; the last block is 1, and so on down; embeddings lie one below
    block 0 (Clark et al. 2020, ELECTRA; Bao et al. 2022, BEiT). Stacks, such as an encoder and a decoder,
    are counted each on its own, and embeddings lie below the deepest.

    Raises:
        TrainingError: when no path names a block.
    """
    blocks = [block_of(path) for path in paths]
    heights: dict[str, int] = {}
    for stack, number in filter(None, blocks):
        heights[stack] = max(heights.get(stack, 0), number + 1)
    if not heights:
        raise TrainingError(
            "optimizer.layer_decay needs blocks to count, but no variable path holds `block_00`;"
            " set optimizer.layer_decay=1 and scale by optimizer.groups"
        )
    deepest = max(heights.values()) + 1
    return [
        heights[block[0]] - block[1] if block else deepest if is_embedding(path) else 0
        for path, block in zip(paths, blocks, strict=True)
    ]


def block_of(path: str) -> tuple[str, int] | None:
    """The stack and the number in `decoder/block_03/attention/query/kernel`: ("decoder", 3)."""
    match = re.search(r"(?:^|(.*?)/)block_(\d+)/", path)
    return (match[1] or "", int(match[2])) if match else None


def is_embedding(path: str) -> bool:
    """Whether a path, such as `decoder/token_embedding/embeddings`, lies in an embedding layer."""
    return any("embedding" in name for name in path.split("/"))


def is_hidden_matrix(variable: keras.Variable) -> bool:
    """Whether a variable is a matrix between hidden states: inside a block, and no embedding."""
    return (
        len(variable.shape) == 2 and block_of(variable.path) is not None and not is_embedding(variable.path)
    )


def _first_match(path: str, groups: Sequence[ParameterGroup]) -> ParameterGroup | None:
    return next((group for group in groups if fnmatchcase(path, group.pattern)), None)


def _idle_group(index: int, group: ParameterGroup, paths: Sequence[str]) -> str:
    where = f"optimizer.groups[{index}].pattern={group.pattern}"
    if any(fnmatchcase(path, group.pattern) for path in paths):
        return f"{where} matches only variables that a group above it rules; put the narrower pattern first"
    near = ", ".join(difflib.get_close_matches(group.pattern, paths, 3, 0.0))
    return f"{where} matches no variable; there are for example {near}"
