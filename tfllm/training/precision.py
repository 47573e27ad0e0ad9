"""Which types compute, which types store."""

from __future__ import annotations

import keras

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


def dtype_policy(precision: str) -> keras.DTypePolicy:
    """The Keras policy of a `training.precision` value.

    The mixed ones keep variables, optimizer state, norms, softmax and loss in float32. bfloat16 has
    float32's exponent range; float16 does not, and needs a `LossScale`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is not known; use one of {', '.join(PRECISIONS)}")
    return keras.DTypePolicy(precision)
