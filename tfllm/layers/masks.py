"""Who may attend to whom, as bool tensors where true allows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfllm.layers.recompute import not_before

Range = tuple[Any, Any]  # the first and the one after the last; numbers or int32 scalars


@dataclasses.dataclass(frozen=True)
class Mask:
    """A rule of who sees whom, which `CausalMask` and `BidirectionalMask` are.

    The rule, not the T x S table of it: attention asks for the part it works on, so that a long row never
    has the whole table in memory.

    Args:
        padding_mask: bool [B, T], true for real tokens; padding is seen by nobody.
        segment_ids: int32 [B, T]; tokens of different segments do not see each other.
        window: Tokens see those less than this many places away; None is all (Beltagy et al. 2020, "Longformer",
            section 3.1).
    """

    padding_mask: tf.Tensor | None = None
    segment_ids: tf.Tensor | None = None
    window: int | None = None

    def dense(self, length: int | tf.Tensor) -> tf.Tensor:
        """Everybody against everybody: bool [1 or B, 1 or T, S]."""
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
            bool [1 or B, 1 or t, s].
        """
        queries = query_start + tf.range(num_queries)
        queries = queries if after is None else not_before(after, queries)
        mask = self._by_place(queries, key_start + tf.range(num_keys))[None]
        if self.padding_mask is not None:
            mask = mask & _columns(self.padding_mask, key_start, num_keys)[:, None, :]
        if self.segment_ids is not None:
            of_queries = _columns(self.segment_ids, query_start, num_queries)
            of_keys = _columns(self.segment_ids, key_start, num_keys)
            mask = mask & (of_queries[:, :, None] == of_keys[:, None, :])
        return mask

    def padded(self, length: int | tf.Tensor, extra: int | tf.Tensor) -> Mask:
        """The mask of rows of `length` with `extra` more tokens, which none of them sees, at the end."""
        del length
        widths = [[0, 0], [0, extra]]
        return dataclasses.replace(
            self,
            padding_mask=None if self.padding_mask is None else tf.pad(self.padding_mask, widths),
            segment_ids=None if self.segment_ids is None else tf.pad(self.segment_ids, widths),
        )

    def keys_of(self, start: int, end: int, length: int) -> Range:
        """The keys that the queries from `start` to `end` of a row may see."""
        raise NotImplementedError

    def key_blocks_of(self, block: tf.Tensor, size: int, count: tf.Tensor) -> Range:
        """Of rows cut into `count` blocks of `size`: the blocks of keys that a block of queries may see."""
        raise NotImplementedError

    def query_blocks_of(self, block: tf.Tensor, size: int, count: tf.Tensor) -> Range:
        """The inverse: the blocks of queries that may see a block of keys."""
        raise NotImplementedError

    def _by_place(self, queries: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """What the places int32 [t] and [s] allow: bool [1 or t, s]."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class CausalMask(Mask):
    """Each token sees itself and what stands before it in its own segment.

    Args:
        padding_mask: As in `Mask`.
        segment_ids: As in `Mask`.
        window: How many tokens each sees, the last of them itself; None is all.
    """

    def keys_of(self, start: int, end: int, length: int) -> Range:
        """See `Mask`."""
        del length
        return 0 if self.window is None else max(0, start - self.window + 1), end

    def key_blocks_of(self, block: tf.Tensor, size: int, count: tf.Tensor) -> Range:
        """See `Mask`."""
        del count
        return 0 if self.window is None else tf.maximum(0, block * size - self.window + 1) // size, block + 1

    def query_blocks_of(self, block: tf.Tensor, size: int, count: tf.Tensor) -> Range:
        """See `Mask`."""
        if self.window is None:
            return block, count
        return block, tf.minimum(count, (block * size + size - 1 + self.window - 1) // size + 1)

    def _by_place(self, queries: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        mask = keys[None, :] <= queries[:, None]
        return mask if self.window is None else mask & (keys[None, :] > queries[:, None] - self.window)


@dataclasses.dataclass(frozen=True)
class BidirectionalMask(Mask):
    """Each token sees its own segment, whatever stands before or behind it (BERT).

    Args:
        padding_mask: As in `Mask`.
        segment_ids: As in `Mask`.
        window: Each sees itself and `window - 1` tokens to either side; None is all.
    """

    def padded(self, length: int | tf.Tensor, extra: int | tf.Tensor) -> Mask:
        """See `Mask`."""
        real = tf.ones([1, length], tf.bool) if self.padding_mask is None else self.padding_mask
        return Mask.padded(dataclasses.replace(self, padding_mask=real), length, extra)

    def keys_of(self, start: int, end: int, length: int) -> Range:
        """See `Mask`."""
        if self.window is None:
            return 0, length
        return max(0, start - self.window + 1), min(length, end + self.window - 1)

    def key_blocks_of(self, block: tf.Tensor, size: int, count: tf.Tensor) -> Range:
        """See `Mask`."""
        if self.window is None:
            return 0, count
        last = block * size + size - 1 + self.window - 1
        return tf.maximum(0, block * size - self.window + 1) // size, tf.minimum(count, last // size + 1)

    def query_blocks_of(self, block: tf.Tensor, size: int, count: tf.Tensor) -> Range:
        """See `Mask`: who is near enough is so both ways."""
        return self.key_blocks_of(block, size, count)

    def _by_place(self, queries: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        if self.window is None:
            return tf.ones_like(keys, tf.bool)[None, :]
        return tf.abs(keys[None, :] - queries[:, None]) < self.window


def cross_mask(features: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """What a decoder's tokens may read of an encoder's: real tokens, and of packed rows those of the same segment.

    Args:
        features: `encoder_token_ids` int32 [B, S], and perhaps `encoder_padding_mask` bool [B, S], and
            `decoder_segment_ids` int32 [B, T] with `encoder_segment_ids` int32 [B, S].

    Returns:
        bool [1 or B, 1 or T, S].

    Raises:
        ValueError: when one of both sides has segments, and the other none.
    """
    of_decoder, of_encoder = (features.get(f"{side}_segment_ids") for side in ("decoder", "encoder"))
    if (of_decoder is None) != (of_encoder is None):
        raise ValueError("encoder_segment_ids and decoder_segment_ids belong together; give both, or neither")
    mask = features.get("encoder_padding_mask")
    if mask is None:
        mask = tf.ones_like(features["encoder_token_ids"][:1], tf.bool)
    if of_decoder is None or of_encoder is None:
        return mask[:, None, :]
    return mask[:, None, :] & (of_decoder[:, :, None] == of_encoder[:, None, :])


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
