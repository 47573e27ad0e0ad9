"""What a head adds to a score for the distance between two tokens."""

from __future__ import annotations

import math
import struct

import tensorflow as tf

from tfllm.layers.embedding import lookup
from tfllm.layers.positions.position_layer import PositionLayer
from tfllm.layers.projection import new_weights


class RelativeBias(PositionLayer):
    """One learned number a head and bucket of distances (Raffel et al. 2020, "T5", section 2.1).

    Half of the buckets are for one distance each, the others for ranges that grow geometrically; from
    `max_distance` on all distances share the last.

    Args:
        num_heads: Heads N.
        num_buckets: Buckets; at least 4 when bidirectional, and 2 when not.
        max_distance: Where the last bucket begins, in tokens; more than the distances of their own.
        bidirectional: Half of the buckets are for keys behind the query; without it those share the bucket of
            distance 0, and a mask hides them.
        initializer_range: Standard deviation of the new table.
    """

    def __init__(
        self,
        *,
        num_heads: int,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool,
        initializer_range: float = 0.02,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.initializer_range = initializer_range
        # The bucket of each distance from -max_distance to max_distance, a key before the query being negative.
        self._buckets = distance_buckets(num_buckets, max_distance, bidirectional=bidirectional)

    def build(self, input_shape=None):
        """Makes `embeddings`, float [num_buckets, N]."""
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.num_buckets, self.num_heads),
            initializer=new_weights(self.initializer_range),
            autocast=False,
        )

    def call(
        self, num_queries: int | tf.Tensor, num_keys: int | tf.Tensor, first_query: int | tf.Tensor = 0
    ) -> tf.Tensor:
        """The bias of queries that stand side by side against keys from the first on.

        Args:
            num_queries: T.
            num_keys: S.
            first_query: int32 scalar, the place of the first query among the keys.

        Returns:
            float32 [1, N, T, S], to be added to scores before the softmax.
        """
        # A table of T x S lookups is a Toeplitz matrix: only T + S - 1 distances are looked up, and row t is
        # read off one place before row t - 1. So the gradient adds up in slices, and not in a scatter of T x S.
        width = num_queries + num_keys
        distances = tf.range(width) - (num_queries - 1) - first_query
        places = tf.clip_by_value(distances, -self.max_distance, self.max_distance) + self.max_distance
        buckets = tf.gather(tf.constant(self._buckets, tf.int32), places)
        by_distance = lookup(tf.convert_to_tensor(self.embeddings), buckets[None], "float32")[0]
        by_distance = tf.transpose(by_distance)  # [T + S, N] -> [N, T + S]
        repeated = tf.tile(by_distance, [1, num_queries])[:, num_queries - 1 :]
        rows = tf.reshape(
            repeated[:, : num_queries * (width - 1)], [1, self.num_heads, num_queries, width - 1]
        )
        return rows[..., :num_keys]

    def bias(
        self, num_queries: int | tf.Tensor, num_keys: int | tf.Tensor, first_query: int | tf.Tensor = 0
    ) -> tf.Tensor:
        """See `PositionLayer`."""
        return self(num_queries=num_queries, num_keys=num_keys, first_query=first_query)


def distance_buckets(num_buckets: int, max_distance: int, *, bidirectional: bool) -> list[int]:
    """The bucket of each distance (place of the key minus that of the query) that has one of its own.

    Args:
        num_buckets: As in `RelativeBias`.
        max_distance: As in `RelativeBias`.
        bidirectional: As in `RelativeBias`.

    Returns:
        Those of the distances from -max_distance to max_distance.

    Raises:
        ValueError: when there are too few buckets, or the distances of their own reach `max_distance`.
    """
    wrong = bucket_problem(num_buckets, max_distance, bidirectional=bidirectional)
    if wrong is not None:
        raise ValueError(wrong)
    one_side = num_buckets // 2 if bidirectional else num_buckets
    exact = one_side // 2
    whole = _float32(math.log(max_distance / exact))

    def bucket(distance: int) -> int:
        if distance < exact:
            return distance
        # In float32, as checkpoints were trained: a range begins where its logarithm rounds to.
        share = _float32(_float32(math.log(_float32(distance / exact))) / whole)
        return min(exact + int(_float32(share * (one_side - exact))), one_side - 1)

    before = [bucket(distance) for distance in range(max_distance + 1)]
    behind = [place + one_side if bidirectional else 0 for place in before]
    return [*before[::-1], *behind[1:]]


def _float32(x: float) -> float:
    """The nearest number that float32 has."""
    return struct.unpack("f", struct.pack("f", x))[0]


def bucket_problem(num_buckets: int, max_distance: int, *, bidirectional: bool) -> str | None:
    """What is wrong about a number of buckets and where the last one begins, or nothing."""
    exact = num_buckets // (4 if bidirectional else 2)
    if exact < 1:
        return f"relative_num_buckets={num_buckets} must be at least {4 if bidirectional else 2}"
    if max_distance <= exact:
        return (
            f"relative_max_distance={max_distance} must be greater than {exact}, the distances that"
            f" relative_num_buckets={num_buckets} gives a bucket of their own"
        )
    return None
