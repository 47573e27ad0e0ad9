"""Rows on disk → batches, as a tf.data pipeline whose order is a pure function of (seed, epoch, step).

There is no shuffle buffer and no iterator state: a run that stops at step s goes on with `start_step=s` and
sees exactly the batches that it would have seen. `training_batches` is the order of operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfllm.data.bucketing import checked_buckets, default_buckets
from tfllm.data.errors import DataError
from tfllm.data.layout import RowLayout
from tfllm.data.mixture import pattern_of, stores_of
from tfllm.data.reading import AnyRows, Batch, blank_rows, read_rows, trim, trimmed_length

Transform = Callable[[Batch], Batch]

_SHUFFLE = 0x5EED  # names the purpose of the seed; any other draw from (seed, epoch) takes another number


def training_batches(
    store: AnyRows,
    *,
    global_batch_size: int,
    seed: int,
    start_step: int = 0,
    num_steps: int | None = None,
    buckets: Sequence[int] | None = None,
    row_seed: int | None = None,
    num_shares: int = 1,
    shares: range | None = None,
    transform: Transform | None = None,
    aligned: Mapping[str, str] | None = None,
) -> tf.data.Dataset:
    """Return the batches of steps `start_step`, …, `num_steps - 1` of one endless, shuffled sequence.

    Row j of step s is number g = s * global_batch_size + j. It lies in epoch g // num_rows, which is a
    permutation of all rows drawn from (seed, epoch); a batch may so end one epoch and begin the next.

    In a mixture number g goes to the component whose turn it is (see `mixture.turns`): of the first g rows
    each has its share, to less than one row. Each component counts its own turns and epochs.

    Replicas take shares: share k of `num_shares` holds the rows [k * R, (k + 1) * R) of every step's batch,
    R = global_batch_size / num_shares, and no others are read. Their numbers, and so `row_ids` and
    `row_seeds`, are those in the whole batch; so is the length that a batch is trimmed to, which must be the
    same on all replicas.

    Args:
        store: The rows, of one store or a mixture.
        global_batch_size: Rows in a batch, over all replicas.
        seed: The seed of the order; it is taken modulo 2**32.
        start_step: The first step; starting there gives exactly the tail of the whole sequence.
        num_steps: The step to stop before; `None` never stops.
        buckets: Lengths that batches may be trimmed to: each takes the smallest that its longest row fits in.
            Default: `default_buckets` if the store is not packed, else none (every batch is [B, seq_len]).
        row_seed: The seed of `row_seeds`, if it shall not be `seed`.
        num_shares: The shares that every batch divides into.
        shares: Those that this dataset yields; `None` is all.
        transform: The task's: rows of full length, with `row_seeds` and `positions`, -> the features of a batch.
            What it draws must follow from `row_seeds` alone. Default: `add_loss_weights`.
        aligned: The side of each feature that `transform` adds and that goes with tokens, [R, T, …].

    Returns:
        A dataset that yields, for each step, an element for each of `shares` in order: a dict whose every
        feature has R rows. The features of the rows' layout, such as int32 [R, T] `token_ids`, `targets` and
        `segment_ids`; int32 [R, T] `positions`, which restart in each segment (of a side `x_` `x_positions`); what
        `transform` makes of them, float32 [R, T] `loss_weights` (1 for tokens, 0 for padding) by default; int64 [R]
        `row_ids`, the rows' index in their store; int32 [R] `source_ids`, which store of a mixture that is, else 0;
        int32 [R] `row_seeds`, for dropout (see `row_seeds`).

    Raises:
        DataError: A size is not positive, the batch does not divide into its shares, the steps are out of
            order, or a bucket does not fit.
    """
    division = Division("training.global_batch_size", global_batch_size, num_shares, shares)
    if start_step < 0 or (num_steps is not None and start_step > num_steps):
        raise DataError(f"start_step={start_step} must lie between 0 and the number of steps, {num_steps}")
    row_seed = seed if row_seed is None else row_seed
    lengths = _lengths(store, buckets)
    made = _Features(store.layout, transform, aligned)

    def batch(numbers: tf.Tensor, own: slice) -> Batch:
        if all(len(each) == 1 for each in lengths.values()):  # nothing depends on the other shares
            numbers, own = numbers[own], slice(None)
        source_ids, row_ids = shuffled_rows(store, numbers, seed=seed)
        longest = _longest(store, source_ids, row_ids, lengths)
        rows = read_rows(store, source_ids[own], row_ids[own])
        seeds = row_seeds(numbers[own], seed=row_seed)
        return {
            **made(rows, seeds, longest),
            "row_ids": row_ids[own],
            "source_ids": source_ids[own],
        }

    return division.elements(batch, start_step, num_steps)


def evaluation_batches(
    store: AnyRows,
    *,
    batch_size: int,
    buckets: Sequence[int] | None = None,
    num_rows: int | None = None,
    num_shares: int = 1,
    shares: range | None = None,
    transform: Transform | None = None,
    aligned: Mapping[str, str] | None = None,
) -> tf.data.Dataset:
    """Return every row of the store once, in order; the last batch is filled up with rows of weight 0.

    Every step has an element for every share, so no replica comes to its end before the others.

    Args:
        store: The rows, of one store or a mixture, whose stores come one after another.
        batch_size: Rows in a batch, over all shares.
        buckets: As in `training_batches`.
        num_rows: Take the first rows only.
        num_shares: As in `training_batches`.
        shares: As in `training_batches`.
        transform: As in `training_batches`; a row's seed follows from its place alone.
        aligned: As in `training_batches`.

    Returns:
        A dataset of dicts as from `training_batches`. Rows that fill up have `row_ids` and `source_ids`
        -1, `segment_ids` 0 and elsewhere what the layout fills with, such as pad ids.

    Raises:
        DataError: A size is not positive, the batch does not divide into its shares, or a bucket does not
            fit.
    """
    division = Division("batch_size", batch_size, num_shares, shares)
    _check_positive("num_rows", store.num_rows if num_rows is None else num_rows)
    end = min(store.num_rows, store.num_rows if num_rows is None else num_rows)
    lengths = _lengths(store, buckets)
    made = _Features(store.layout, transform, aligned)

    def batch(numbers: tf.Tensor, own: slice) -> Batch:
        real = numbers < end
        # What fills up reads a row, which is then made blank.
        source_ids, row_ids = consecutive_rows(store, tf.where(real, numbers, 0))
        longest = _longest(store, source_ids, row_ids, lengths)
        rows = blank_rows(read_rows(store, source_ids[own], row_ids[own]), real[own], store.layout)
        return {
            **made(rows, row_seeds(numbers[own], seed=0), longest),
            "row_ids": tf.where(real, row_ids, -1)[own],
            "source_ids": tf.where(real, source_ids, -1)[own],
        }

    return division.elements(batch, 0, -(-end // batch_size))


class Division:
    """How the rows of each step's batch divide into shares, and which shares are made here.

    Args:
        name: What the batch size is called, for messages.
        batch_size: Rows in a batch.
        num_shares: Shares in a batch.
        shares: Those made here; `None` is all.

    Raises:
        DataError: A number is not positive, the shares are not equal, or one made here does not exist.
    """

    def __init__(self, name: str, batch_size: int, num_shares: int, shares: range | None):
        _check_positive(name, batch_size)
        _check_positive("num_shares", num_shares)
        if batch_size % num_shares:
            lower = batch_size - batch_size % num_shares
            near = " or ".join(str(size) for size in (lower, lower + num_shares) if size)
            raise DataError(f"{name}={batch_size} must be divisible by num_shares={num_shares}; try {near}")
        self.shares = range(num_shares) if shares is None else shares
        if not self.shares or not 0 <= min(self.shares) <= max(self.shares) < num_shares:
            raise DataError(f"shares={self.shares} must be some of range(0, {num_shares})")
        self.batch_size = batch_size
        self.share_size = batch_size // num_shares

    def elements(
        self, batch: Callable[[tf.Tensor, slice], Batch], start_step: int, num_steps: int | None
    ) -> tf.data.Dataset:
        """Return for each step and share what `batch` makes of the step's row numbers, int64 [B], and the
        share's slice of them."""
        own_shares = len(self.shares)
        if num_steps is None:
            num_steps = tf.int64.max // (self.batch_size * own_shares)

        def element(number: tf.Tensor) -> Batch:
            step, place = number // own_shares, number % own_shares
            numbers = step * self.batch_size + tf.range(self.batch_size, dtype=tf.int64)
            start = (self.shares.start + place * self.shares.step) * self.share_size
            features = batch(numbers, slice(start, start + self.share_size))
            return {name: self._with_rows(feature) for name, feature in features.items()}

        return _finished(tf.data.Dataset.range(start_step * own_shares, num_steps * own_shares), element)

    def _with_rows(self, feature: tf.Tensor) -> tf.Tensor:
        """A slice that begins at a tensor has no static size; here it is known."""
        return tf.ensure_shape(feature, [self.share_size, *feature.shape[1:]])


def shuffled_rows(rows: AnyRows, numbers: tf.Tensor, *, seed: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Return which row stands at each place of the endless training sequence.

    Args:
        rows: A store or a mixture.
        numbers: int64 [B], places from 0.
        seed: The seed of the order.

    Returns:
        int32 [B] components and int64 [B] row indices in them; each epoch of a component is a permutation of
        its rows.
    """
    pattern = pattern_of(rows)
    period = len(pattern.sources)
    source_ids = tf.gather(pattern.sources, numbers % period)
    turns = numbers // period * tf.gather(pattern.counts, source_ids)
    turns += tf.gather(pattern.ranks, numbers % period)
    sizes = tf.gather(tf.constant([store.num_rows for store in stores_of(rows)], tf.int64), source_ids)
    # Components of one size, such as the two sides of a translation, must not be shuffled alike.
    purpose = _SHUFFLE + tf.cast(source_ids, tf.int64)
    seeds = tf.stack([purpose, tf.fill(tf.shape(turns), _word(seed)), turns // sizes], axis=1)
    # The raw op: tf.random.experimental.index_shuffle pads a batch of seeds on the wrong axis (TensorFlow
    # 2.21), and a call for each row costs more than reading the row.
    row_ids = tf.raw_ops.RandomIndexShuffle(
        index=turns % sizes,
        seed=seeds,
        max_index=sizes - 1,
        rounds=4,  # what the public function takes
    )
    return source_ids, row_ids


def consecutive_rows(rows: AnyRows, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return components, int32 [B], and rows, int64 [B], where one store follows another."""
    ends = np.cumsum([store.num_rows for store in stores_of(rows)])
    source_ids = tf.searchsorted(tf.constant(ends, tf.int64), numbers, side="right")
    starts = tf.constant(np.concatenate([[0], ends[:-1]]), tf.int64)
    return source_ids, numbers - tf.gather(starts, source_ids)


def row_seeds(numbers: tf.Tensor, *, seed: int) -> tf.Tensor:
    """Return a stateless seed for each row, for dropout that does not depend on how a batch is split.

    It is hash32(low ^ hash32(high ^ hash32(seed))) of the row's number g = step * B + j, in 32-bit words.
    hash32 is one-to-one, so for one `seed` no two rows in 2**32 share theirs.

    Args:
        numbers: int64 [B], the rows' numbers.
        seed: The seed of the run.

    Returns:
        int32 [B].
    """
    low = tf.cast(numbers % 2**32, tf.uint32)
    high = tf.cast(numbers // 2**32, tf.uint32)
    key = _hash32(tf.constant(seed & 0xFFFFFFFF, tf.uint32))
    xor = tf.bitwise.bitwise_xor
    return tf.bitcast(_hash32(xor(low, _hash32(xor(high, key)))), tf.int32)


def _hash32(x: tf.Tensor) -> tf.Tensor:
    """A permutation of uint32: "lowbias32" (Ettinger, "Prospecting for Hash Functions", 2018)."""
    shift, xor = tf.bitwise.right_shift, tf.bitwise.bitwise_xor
    x = xor(x, shift(x, tf.constant(16, tf.uint32))) * tf.constant(0x7FEB352D, tf.uint32)
    x = xor(x, shift(x, tf.constant(15, tf.uint32))) * tf.constant(0x846CA68B, tf.uint32)
    return xor(x, shift(x, tf.constant(16, tf.uint32)))


def add_loss_weights(rows: Batch) -> Batch:
    """Add `loss_weights`, float32 [R, T]: 1 for tokens, 0 for padding."""
    return {**rows, "loss_weights": tf.cast(rows["segment_ids"] > 0, tf.float32)}


class _Features:
    """Rows as they were read, of full length -> the features of a batch, trimmed."""

    def __init__(self, layout: RowLayout, transform: Transform | None, aligned: Mapping[str, str] | None):
        self.sides = [side for side, _ in layout.sides]
        self.transform = transform or add_loss_weights
        held = {feature.name: feature.side for feature in layout.features if feature.side is not None}
        added = {"loss_weights": ""} if transform is None else dict(aligned or {})
        self.side_of = {**held, **{f"{side}positions": side for side in self.sides}, **added}

    def __call__(self, rows: Batch, seeds: tf.Tensor, lengths: Mapping[str, tf.Tensor | None]) -> Batch:
        positions = {}
        for side in self.sides:
            segment_ids = rows[f"{side}segment_ids"]
            counted = positions_from_segments(segment_ids)
            # Padding may be longer than any segment, and a table of positions ends where segments do.
            positions[f"{side}positions"] = tf.where(segment_ids > 0, counted, 0)
        return trim(self.transform({**rows, **positions, "row_seeds": seeds}), lengths, self.side_of)


def positions_from_segments(segment_ids: tf.Tensor) -> tf.Tensor:
    """Return each token's place in its segment, as `packing.positions_from_segments` does, in the graph.

    Args:
        segment_ids: int32 [B, T] with T known when the graph is built.

    Returns:
        int32 [B, T].
    """
    length = segment_ids.shape[1]
    index = tf.range(length)[None, :]
    changed = segment_ids[:, 1:] != segment_ids[:, :-1]
    starts = tf.where(tf.pad(changed, [[0, 0], [1, 0]]), index, 0)
    # The running maximum of the starts, by doubling: a third of the time that tf.searchsorted takes.
    reach = 1
    while reach < length:
        starts = tf.maximum(starts, tf.pad(starts[:, :-reach], [[0, 0], [reach, 0]]))
        reach *= 2
    return index - starts


def _finished(numbers: tf.data.Dataset, element: Callable[[tf.Tensor], Batch]) -> tf.data.Dataset:
    element = tf.autograph.experimental.do_not_convert(
        element
    )  # it has no Python to convert, and that takes seconds
    options = tf.data.Options()
    options.deterministic = True
    # Every worker can make every step's batch: tf.distribute shares out rows, as there are no files to share.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    dataset = numbers.map(element, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)


def _lengths(store: AnyRows, buckets: Sequence[int] | None) -> dict[str, tuple[int, ...]]:
    """The lengths that each side of a batch may be trimmed to."""
    if buckets is not None:
        return {side: checked_buckets(buckets, length) for side, length in store.layout.sides}
    return {
        side: (length,) if store.packing else default_buckets(length) for side, length in store.layout.sides
    }


def _longest(
    store: AnyRows, source_ids: tf.Tensor, row_ids: tf.Tensor, lengths: dict[str, tuple[int, ...]]
) -> dict[str, tf.Tensor | None]:
    """The length that each side of these rows is trimmed to."""
    return {side: trimmed_length(store, source_ids, row_ids, each, side) for side, each in lengths.items()}


def _word(seed: int) -> tf.Tensor:
    return tf.constant(seed & 0xFFFFFFFF, tf.int64)


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise DataError(f"{name}={value} must be at least 1")
