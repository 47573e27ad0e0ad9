"""What a replica may touch by itself, without asking the others."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def local(variable: keras.Variable) -> tf.Variable:
    """This replica's own copy of a variable.

    A mirrored variable refuses to be assigned in a replica, or hands every assignment over to all
    replicas, one at a time. Its copy is a plain variable: to be read and assigned inside a function that
    XLA compiles, on the replica's device. Whoever assigns the same on all replicas keeps the copies alike.

    On a TPU the replica's number is known only as it runs, and a variable without aggregation, such as
    all of Keras's, is assigned in the replica as it is. (Written from TensorFlow's documentation; never
    run on a TPU.)

    Args:
        variable: A Keras variable made under the strategy. Outside a replica context it is mirrored,
            and may be read only.
    """
    value: Any = variable.value
    context = tf.distribute.get_replica_context()
    if context is None:
        return value
    number = tf.get_static_value(context.replica_id_in_sync_group)
    if number is None:
        return value
    copies = context.strategy.experimental_local_results(value)
    # Numbers run over all workers, copies over the replicas of this one; workers have equally many.
    return copies[int(number) % len(copies)]


def chosen(condition: tf.Tensor | None, new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
    """`new` where the scalar condition is true or None, else `old`, even where `new` is not finite."""
    return new if condition is None else tf.where(condition, new, old)
