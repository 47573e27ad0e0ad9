"""Who may attend to whom, as bool tensors where true allows."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfllm.layers.recompute import not_before


@dataclasses.dataclass(frozen=True)
class CausalMask:
    """Each token sees itself and what stands before it in its own segment.

    The rule, not the T x S table of it: attention asks for the part it works on, so that a long row never
    has the whole table in memory.

    Args:
        padding_mask: bool [B, T], true for real tokens; padding is seen by nobody.
        segment_ids: int32 [B, T]; tokens of different segments do not see each other.
        window: How many tokens each sees, the last of them itself; None is all (Beltagy et al. 2020,
            "Longformer", section 3.1).
    """

    padding_mask: tf.Tensor | None = None
    segment_ids: tf.Tensor | None = None
    window: int | None = None

    def dense(self, length: int | tf.Tensor) -> tf.Tensor:
        """Everybody against everybody: bool [1 or B, T, S]."""
        return self.block(0, length, 0, length)

    def block(
        self,
        query_start: int | tf.Tensor,
        num_queries: int | tf.Tensor,
        key_start: int | tf.Tensor,
        num_keys: int | tf.Tensor,
        *,
        after: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Some queries against some keys.

        Args:
            query_start: int32 scalar, the first query.
            num_queries: How many queries t.
            key_start: int32 scalar, the first key.
            num_keys: How many keys s.
            after: float tensor that the part is made after. Without one, a compiler makes it while compiling,
                and stores it: of a long row, many megabytes in each layer.

        Returns:
            bool [1 or B, t, s].
        """
        queries = query_start + tf.range(num_queries)
        queries = queries if after is None else not_before(after, queries)
        keys = key_start + tf.range(num_keys)
        mask = (keys[None, :] <= queries[:, None])[None]
        if self.window is not None:
            mask = mask & (keys[None, :] > queries[:, None] - self.window)[None]
        if self.padding_mask is not None:
            mask = mask & _columns(self.padding_mask, key_start, num_keys)[:, None, :]
        if self.segment_ids is not None:
            of_queries = _columns(self.segment_ids, query_start, num_queries)
            of_keys = _columns(self.segment_ids, key_start, num_keys)
            mask = mask & (of_queries[:, :, None] == of_keys[:, None, :])
        return mask

    def padded(self, extra: int | tf.Tensor) -> CausalMask:
        """The mask of rows with `extra` more tokens of padding at the end."""
        widths = [[0, 0], [0, extra]]
        return CausalMask(
            padding_mask=None if self.padding_mask is None else tf.pad(self.padding_mask, widths),
            segment_ids=None if self.segment_ids is None else tf.pad(self.segment_ids, widths),
            window=self.window,
        )

    def first_key(self, query: int) -> int:
        """The first position that a query may see."""
        return 0 if self.window is None else max(0, query - self.window + 1)

    def first_key_block(self, block: tf.Tensor, size: int) -> int | tf.Tensor:
        """Of rows cut into blocks of `size`: the first block of keys that a block of queries may see."""
        return 0 if self.window is None else tf.maximum(0, block * size - self.window + 1) // size

    def end_of_query_blocks(self, block: tf.Tensor, size: int, count: tf.Tensor) -> tf.Tensor:
        """The block after the last of `count` blocks of queries that may see a block of keys."""
        if self.window is None:
            return count
        return tf.minimum(count, (block * size + size - 1 + self.window - 1) // size + 1)


def causal_mask(
    length: int | tf.Tensor,
    *,
    padding_mask: tf.Tensor | None = None,
    segment_ids: tf.Tensor | None = None,
) -> tf.Tensor:
    """The whole table of a `CausalMask`: bool [1 or B, T, S]."""
    return CausalMask(padding_mask, segment_ids).dense(length)


def _columns(x: tf.Tensor, start: int | tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
    return tf.slice(x, [0, start], [-1, count])
