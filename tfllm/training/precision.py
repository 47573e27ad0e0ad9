"""Which types compute, which types store."""

from __future__ import annotations

import keras


def dtype_policy(precision: str) -> keras.DTypePolicy:
    """The Keras policy of a `training.precision` value.

    `mixed_bfloat16` keeps variables, norms, softmax and loss in float32 and needs no loss scaling:
    bfloat16 has float32's exponent range.
    """
    if precision not in ("float32", "mixed_bfloat16"):
        raise ValueError(f"precision={precision!r} is not known; use float32 or mixed_bfloat16")
    return keras.DTypePolicy(precision)
