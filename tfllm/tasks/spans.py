"""Which spans of a text are taken out, and what the encoder reads and the decoder writes in their place."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfllm.layers.stateless_random import fold_in, uniform

# What numbers are drawn for: each purpose has its own.
_NOISE, _TEXT = 0x59A1, 0x59A2


@dataclasses.dataclass(frozen=True)
class SpanRate:
    """How much of a text is taken out, in spans of which length.

    Args:
        rate: Share of the tokens.
        mean_length: Tokens of a span, on the average.
    """

    rate: float
    mean_length: float

    def counts(self, length: int) -> tuple[int, int]:
        """Return how many tokens of a text of `length` are taken out, and in how many spans, as T5 rounds them."""
        if length < 2:
            return 0, 0
        noise = min(max(round(length * self.rate), 1), length - 1)
        return noise, min(max(round(noise / self.mean_length), 1), noise, length - noise)

    def widths(self, length: int) -> tuple[int, int]:
        """Return the most tokens that the encoder reads, and that the decoder writes, for a text of up to `length`.

        Every span is a sentinel to the encoder, and begins with one in the decoder's text, which has another at its end
        where the text goes on behind the last span; both texts have an end.
        """
        each = [self._widths(n) for n in range(1, length + 1)]
        return max(read for read, _ in each), max(written for _, written in each)

    def text_length(self, read: int) -> int:
        """Return the longest text of which the encoder reads `read` tokens at most; 0 where none fits."""
        length = 0
        while self._widths(length + 1)[0] <= read:
            length += 1
        return length

    def _widths(self, length: int) -> tuple[int, int]:
        noise, spans = self.counts(length)
        return length - noise + spans + 1, noise + spans + 2

    def table(self, length: int) -> np.ndarray:
        """Return int32 [length + 1, 2], `counts` for every length."""
        return np.array([self.counts(n) for n in range(length + 1)], np.int32)


def spans_of(lengths: tf.Tensor, seeds: tf.Tensor, rate: SpanRate, width: int) -> tf.Tensor:
    """Draws which tokens are taken out (Raffel et al. 2020, section 3.1.4).

    All ways to cut what is taken out into so many spans, and the rest into what stands before, between and behind them,
    are equally likely; a text begins with a token that stays. T5 leaves nothing behind the last span, so that the end
    of a text is always taken out, and of a short one nothing else; here it may be any.

    Args:
        lengths: int32 [B], tokens of each text.
        seeds: int32 [B], from which all follows.
        rate: How much.
        width: T, what `lengths` are at most.

    Returns:
        bool [B, T].
    """
    counts = tf.gather(tf.constant(rate.table(width)), lengths)
    noise, spans = counts[:, 0], counts[:, 1]
    most = int(rate.table(width)[:, 1].max())
    taken = _cut(noise, spans, fold_in(seeds, _NOISE), width, most)
    # One token more is cut into one part more, whose last loses it again: so that part may be empty.
    stays = _cut(lengths - noise + 1, spans + 1, fold_in(seeds, _TEXT), width + 1, most + 1)
    begins = tf.cumsum(stays[:, :-1], axis=1) + tf.cumsum(taken, axis=1, exclusive=True)
    real = tf.range(most)[None] < spans[:, None]
    edges = [tf.where(real, places, width + 1) for places in (begins, begins + taken)]
    starts, stops = (tf.math.bincount(x, minlength=width, maxlength=width, axis=-1) for x in edges)
    return tf.cumsum(starts - stops, axis=1) > 0


def corrupted(
    token_ids: tf.Tensor,
    lengths: tf.Tensor,
    taken: tf.Tensor,
    *,
    sentinels: Sequence[int],
    eos_id: int,
    pad_id: int,
    widths: tuple[int, int],
) -> tuple[tuple[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """What the encoder reads and the decoder writes.

    The encoder reads the text with a sentinel in the place of each span. The decoder writes each span behind its
    sentinel, and the next sentinel where text follows the last. An end token ends both.

    Args:
        token_ids: int32 [B, T].
        lengths: int32 [B], tokens of each text; one of fewer than two has nothing to learn.
        taken: bool [B, T], which tokens are taken out, none of them first.
        sentinels: Ids, in the order in which they are used; more than there are spans.
        eos_id: The end token.
        pad_id: Stands behind both.
        widths: Of what is read, S, and of what is written, U.

    Returns:
        int32 [B, S] and its lengths int32 [B]; int32 [B, U] and its lengths.
    """
    real = tf.sequence_mask(lengths, token_ids.shape[1])
    taken &= real
    text = real & ~taken
    begins = taken & ~tf.pad(taken[:, :-1], [[0, 0], [1, 0]])
    number = tf.cumsum(tf.cast(begins, tf.int32), axis=1)  # of the span that a token is in or behind, from 1
    sentinel = tf.gather(tf.constant(sentinels, tf.int32), tf.maximum(number - 1, 0))
    ends = tf.fill([tf.shape(token_ids)[0], 1], eos_id)

    read = _joined(
        [tf.where(begins, sentinel, token_ids), ends], [text | begins, tf.ones_like(ends, tf.bool)]
    )
    # Between a sentinel and its tokens nothing stands, so each token has a place for a sentinel before it.
    doubled = tf.reshape(tf.stack([sentinel, token_ids], axis=2), [-1, 2 * token_ids.shape[1]])
    kept = tf.reshape(tf.stack([begins, taken], axis=2), [-1, 2 * token_ids.shape[1]])
    count = number[:, -1:]
    closing = tf.gather(tf.constant(sentinels, tf.int32), count)
    last = tf.gather(text, tf.maximum(lengths - 1, 0)[:, None], batch_dims=1)
    some = count > 0
    written = _joined([doubled, closing, ends], [kept, last & some, some])
    return _filled(*read, widths[0], pad_id), _filled(*written, widths[1], pad_id)


def _cut(items: tf.Tensor, parts: tf.Tensor, seeds: tf.Tensor, width: int, most: int) -> tf.Tensor:
    """The sizes of so many parts of so many items, each of one at least, drawn from all there are: int32 [B, most]."""
    place = tf.range(1, width)[None]  # where a part may begin, but for the first
    drawn = tf.where(place < items[:, None], uniform(seeds, width - 1), 2.0)
    rank = tf.argsort(tf.argsort(drawn, axis=1, stable=True), axis=1, stable=True)
    begins = tf.pad(tf.cast(rank < parts[:, None] - 1, tf.int32), [[0, 0], [1, 0]])
    part = tf.where(tf.range(width)[None] < items[:, None], tf.cumsum(begins, axis=1), most)
    return tf.math.bincount(part, minlength=most, maxlength=most, axis=-1)


def _joined(parts: Sequence[tf.Tensor], kept: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """What is kept, in its order and moved to the front, and how much that is."""
    ids, marks = tf.concat(parts, axis=1), tf.concat(kept, axis=1)
    order = tf.argsort(tf.where(marks, 0, 1), axis=1, stable=True)
    return tf.gather(ids, order, batch_dims=1), tf.reduce_sum(tf.cast(marks, tf.int32), axis=1)


def _filled(ids: tf.Tensor, size: tf.Tensor, width: int, pad_id: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Padded to a width."""
    missing = max(0, width - ids.shape[1])
    ids = tf.pad(ids, [[0, 0], [0, missing]])[:, :width]
    return tf.where(tf.sequence_mask(size, width), ids, pad_id), size
