"""The matrices of a model that something may stand beside, and the variables that are trained."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from tfllm.layers.projection import Projection
from tfllm.layers.stored_kernel import in_block, stored_dtype
from tfllm.peft.errors import PeftError

ALL = "all"


def projections(model: Any) -> dict[str, Projection]:
    """Return the projections of a built model, by path."""
    found = (layer for layer in model._flatten_layers(include_self=False) if isinstance(layer, Projection))
    return dict(sorted((layer.path, layer) for layer in found if layer.built))


def low_rank_layers(model: Any) -> dict[str, Any]:
    """Return what stands beside projections of a built model, by the path of the projection."""
    return {path: each.beside for path, each in projections(model).items() if each.beside is not None}


def chosen(model: Any, targets: Sequence[str]) -> dict[str, Projection]:
    """Return the projections that are named, by path.

    Args:
        model: A built model.
        targets: Names of projections, such as `query`; globs over their paths; or `all`, those inside blocks.

    Raises:
        PeftError: one of them names none.
    """
    there = projections(model)
    found: dict[str, Projection] = {}
    for target in targets:
        named = {path: each for path, each in there.items() if _is_named(path, target)}
        if not named:
            names = sorted({path.rpartition("/")[2] for path in there})
            near = difflib.get_close_matches(target, there, 1, 0.0)
            raise PeftError(
                f"peft.targets={target} names no projection of the model; there are {', '.join(names) or 'none'}"
                + (f", by path for example {near[0]}" if near else "")
            )
        found |= named
    return found


def first_named(patterns: Iterable[str], path: str) -> str | None:
    """Return the first of some names or globs, as in `chosen`, that names the projection of a path, if one does."""
    return next((pattern for pattern in patterns if _is_named(path, pattern)), None)


def train_only(model: Any, trained: Iterable[Any], *, patterns: Sequence[str], with_head: bool) -> None:
    """Freezes all variables but some.

    Args:
        model: A built model.
        trained: Variables that are trained.
        patterns: Globs over the paths of others that are.
        with_head: What stands on top of the body is trained too, for it is new.

    Raises:
        PeftError: a pattern matches nothing, or a matrix that is stored in few bytes.
    """
    kept = {id(variable) for variable in trained}
    paths = [variable.path for variable in model.variables]
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in paths):
            near = ", ".join(difflib.get_close_matches(pattern, paths, 3, 0.0))
            raise PeftError(f"peft.train={pattern} matches no variable; there are for example {near}")
    stored = {each.kernel.path: stored_dtype(each) for each in projections(model).values()}
    for variable in model.variables:
        named = [pattern for pattern in patterns if fnmatchcase(variable.path, pattern)]
        if named and stored.get(variable.path) is not None:
            raise PeftError(
                f"peft.train={named[0]} names {variable.path}, which peft.base_dtype={stored[variable.path]} stores and"
                " does not train; train others, or leave base_dtype out"
            )
        on_top = with_head and is_head(variable.path)
        if variable.trainable and not (id(variable) in kept or named or on_top):
            variable.trainable = False


def is_head(path: str) -> bool:
    """Return whether a variable stands on top of a model's body: in no block, no embedding and no last norm."""
    parts = path.split("/")[1:]
    return not any(part.startswith("block_") or "embedding" in part or part == "final_norm" for part in parts)


def _is_named(path: str, target: str) -> bool:
    if target == ALL:
        return in_block(path)
    return path.rpartition("/")[2] == target or fnmatchcase(path, target)
