"""The tensors of a checkpoint, whatever files they lie in."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Tensors(Protocol):
    """The tensors of a checkpoint, under transformers' names."""

    shapes: dict[str, tuple[int, ...]]
    types: dict[str, str]

    def read(self, name: str) -> np.ndarray:
        """One tensor."""
