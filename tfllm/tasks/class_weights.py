"""What each class counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tfllm.tasks.errors import TaskError


def weights_by_class(class_names: Sequence[str], weights: Mapping[str, float] | None) -> np.ndarray:
    """Return the weight of each class, float32 [C]; those left out count 1.

    Raises:
        TaskError: A weight is given to a class that is not there.
    """
    unknown = sorted(set(weights or {}) - set(class_names))
    if unknown:
        raise TaskError(
            f"task.class_weights names {unknown[0]!r}, which is no class; there are"
            f" {', '.join(map(repr, class_names))}"
        )
    return np.array([(weights or {}).get(name, 1.0) for name in class_names], np.float32)
