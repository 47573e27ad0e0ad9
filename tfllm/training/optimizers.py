"""Keras optimizers, with weight decay kept where it belongs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras


class _SummedAlready:
    """Takes gradients as they are: the train step has summed and clipped them over all replicas."""

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return list(grads_and_vars)


class AdamW(_SummedAlready, keras.optimizers.AdamW):
    """AdamW (Loshchilov & Hutter 2019)."""


class Lion(_SummedAlready, keras.optimizers.Lion):
    """Lion (Chen et al. 2023)."""


class Adafactor(_SummedAlready, keras.optimizers.Adafactor):
    """Adafactor (Shazeer & Stern 2018)."""


class SGD(_SummedAlready, keras.optimizers.SGD):
    """Stochastic gradient descent."""


OPTIMIZERS: dict[str, Any] = {"adamw": AdamW, "lion": Lion, "adafactor": Adafactor, "sgd": SGD}


def make_optimizer(
    kind: str,
    *,
    learning_rate: Any,
    weight_decay: float = 0.0,
    decay_embeddings: bool = False,
    variables: Iterable[keras.Variable],
    **arguments: Any,
) -> keras.optimizers.Optimizer:
    """Builds an optimizer for the given variables.

    Neither clipping nor the sum over replicas is its business: Keras clips before it sums, so the train
    step does both, in the right order.

    Args:
        kind: adamw, lion, adafactor or sgd.
        learning_rate: A float or a Keras schedule.
        weight_decay: Decoupled decay a unit of learning rate; never applied to norms and biases.
        decay_embeddings: Apply it to embedding tables too.
        variables: The trainable variables. Call under `strategy.scope()`.
        arguments: The optimizer's own, e.g. `beta_1`.

    Returns:
        The optimizer, its slots made.
    """
    if kind not in OPTIMIZERS:
        raise ValueError(f"optimizer kind={kind!r} is not known; use one of {sorted(OPTIMIZERS)}")
    variables = list(variables)
    # Named, because Keras numbers its own names by process, and the names are in the checkpoint.
    optimizer = OPTIMIZERS[kind](
        learning_rate=learning_rate, weight_decay=weight_decay, name=kind, **arguments
    )
    if weight_decay:
        kept = [v for v in variables if not decays(v, decay_embeddings=decay_embeddings)]
        optimizer.exclude_from_weight_decay(var_list=kept)
    optimizer.build(variables)
    return optimizer


def decays(variable: keras.Variable, *, decay_embeddings: bool) -> bool:
    """Whether weight decay applies: to matrices, and to embedding tables where asked for."""
    if variable.path.rpartition("/")[2] == "embeddings":
        return decay_embeddings
    return len(variable.shape) >= 2
