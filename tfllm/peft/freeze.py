"""Freezing a part of a model: its first blocks, or what patterns name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from tfllm.peft.errors import PeftError

_BLOCK = re.compile(r"block_(\d+)")


class Freeze:
    """Leaves a part of a model as it is.

    Args:
        first_layers: The embeddings, and that many blocks of each stack behind them.
        patterns: Globs over paths of variables.
        train: Globs over those among them that are trained all the same.
    """

    def __init__(self, *, first_layers: int = 0, patterns: Sequence[str] = (), train: Sequence[str] = ()):
        self.first_layers, self.patterns, self.train = first_layers, tuple(patterns), tuple(train)

    def attach(self, model: Any, *, with_head: bool = False) -> None:
        """Freezes it in a built model.

        Raises:
            PeftError: when the model has not so many blocks, a pattern matches nothing, or nothing is left to train.
        """
        del with_head  # a head is none of the first layers
        paths = [variable.path for variable in model.variables]
        blocks = {int(found[1]) for path in paths if (found := _BLOCK.search(path))}
        if self.first_layers > len(blocks):
            raise PeftError(
                f"peft.first_layers={self.first_layers} exceeds the {len(blocks)} blocks of the model; write at most"
                f" {len(blocks)}"
            )
        for key in ("patterns", "train"):
            for pattern in getattr(self, key):
                if not any(fnmatchcase(path, pattern) for path in paths):
                    near = ", ".join(difflib.get_close_matches(pattern, paths, 3, 0.0))
                    raise PeftError(f"peft.{key}={pattern} matches no variable; there are for example {near}")
        for variable in model.variables:
            if self._freezes(variable.path):
                variable.trainable = False
        if not model.trainable_variables:
            raise PeftError("peft.type=freeze leaves nothing to train; name less in peft.patterns")

    def _freezes(self, path: str) -> bool:
        if any(fnmatchcase(path, pattern) for pattern in self.train):
            return False
        if any(fnmatchcase(path, pattern) for pattern in self.patterns):
            return True
        block = _BLOCK.search(path)
        if block is not None:
            return int(block[1]) < self.first_layers
        return self.first_layers > 0 and "embedding" in path
