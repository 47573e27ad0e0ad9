"""Keys and values of a fixed number of slots, kept between decoding steps.

A cache is a tuple with one `BlockCache` a block, of pairs `(keys, values)`, each float [B, K, S, H]: heads before
slots, so that attention reads it without a transpose. It is a plain structure of tensors and passes through
`tf.while_loop` and a SavedModel as it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

KVPair = tuple[tf.Tensor, tf.Tensor]


class BlockCache(NamedTuple):
    """What a block keeps.

    Args:
        own: Keys and values of the tokens before.
        memory: Those of an encoder's states, which stay as they are; () where there is no encoder. Not None, which a
            loop would take for a value.
    """

    own: KVPair
    memory: KVPair | tuple[()] = ()


KVCache = tuple[BlockCache, ...]


def loose_shapes(cache: Any) -> Any:
    """For a loop: the shapes of a cache's tensors, with rows and slots left open.

    Args:
        cache: Nested tuples of tensors: float [B, K, S, H], bool [B, S], or vectors.

    Returns:
        The same structure of `tf.TensorShape`.
    """
    return tf.nest.map_structure(_loose_shape, cache)


def _loose_shape(x: tf.Tensor) -> tf.TensorShape:
    if len(x.shape) == 4:
        return tf.TensorShape([None, x.shape[1], None, x.shape[3]])
    return tf.TensorShape([None] * len(x.shape))


def from_prefill(keys: tf.Tensor, values: tf.Tensor, num_slots: int | tf.Tensor) -> KVPair:
    """Starts a cache with what the prompt filled.

    Args:
        keys: float [B, T, K, H].
        values: float [B, T, K, H].
        num_slots: S, at least T. Slots from T on are zero.

    Returns:
        The pair, each float [B, K, S, H].
    """
    extra = num_slots - tf.shape(keys)[1]
    widths = [[0, 0], [0, 0], [0, extra], [0, 0]]
    return tuple(tf.pad(tf.transpose(x, [0, 2, 1, 3]), widths) for x in (keys, values))


def write(pair: KVPair, keys: tf.Tensor, values: tf.Tensor, slot: tf.Tensor) -> KVPair:
    """Puts one token's keys and values into a slot.

    A select over all slots, not an update in place: it needs no XLA-only op, so the same function
    serves a compiled loop and a stock server, and XLA fuses it into the read that follows.

    Args:
        pair: The block's cache.
        keys: float [B, 1, K, H].
        values: float [B, 1, K, H].
        slot: int32 scalar.

    Returns:
        The pair with that slot replaced.
    """
    here = (tf.range(tf.shape(pair[0])[2]) == slot)[None, None, :, None]
    return tuple(
        tf.where(here, tf.transpose(new, [0, 2, 1, 3]), old)
        for old, new in zip(pair, (keys, values), strict=True)
    )
