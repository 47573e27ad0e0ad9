"""Rows on disk → batches, as a tf.data pipeline whose order is a pure function of (seed, epoch, step).

There is no shuffle buffer and no iterator state: a run that stops at step s goes on with `start_step=s` and
sees exactly the batches that it would have seen. `training_batches` is the order of operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from tfllm.data.bucketing import checked_buckets, default_buckets
from tfllm.data.errors import DataError
from tfllm.data.store import FEATURES, RowStore

Batch = dict[str, tf.Tensor]

_SHUFFLE = 0x5EED  # names the purpose of the seed; any other draw from (seed, epoch) takes another number


def training_batches(
    store: RowStore,
    *,
    global_batch_size: int,
    seed: int,
    start_step: int = 0,
    num_steps: int | None = None,
    buckets: Sequence[int] | None = None,
    row_seed: int | None = None,
) -> tf.data.Dataset:
    """Return the batches of steps `start_step`, …, `num_steps - 1` of one endless, shuffled sequence.

    Row j of step s is number g = s * global_batch_size + j. It lies in epoch g // num_rows, which is a
    permutation of all rows drawn from (seed, epoch); a batch may so end one epoch and begin the next.

    Args:
        store: The rows.
        global_batch_size: Rows in a batch, over all replicas.
        seed: The seed of the order; it is taken modulo 2**32.
        start_step: The first step; starting there gives exactly the tail of the whole sequence.
        num_steps: The step to stop before; `None` never stops.
        buckets: Lengths that batches may be trimmed to: each takes the smallest that its longest row fits in.
            Default: `default_buckets` if the store is not packed, else none (every batch is [B, seq_len]).
        row_seed: The seed of `row_seeds`, if it shall not be `seed`.

    Returns:
        A dataset of dicts whose every feature has B rows, so that tf.distribute can split it: int32 [B, T]
        `token_ids`, `targets`, `segment_ids` and `positions` (which restart in each segment); float32 [B, T]
        `loss_weights` (1 for tokens, 0 for padding); int64 [B] `row_ids`, the rows' index in the store;
        int32 [B] `row_seeds`, for dropout (see `row_seeds`).

    Raises:
        DataError: A size is not positive, the steps are out of order, or a bucket does not fit.
    """
    _check_positive("training.global_batch_size", global_batch_size)
    if start_step < 0 or (num_steps is not None and start_step > num_steps):
        raise DataError(f"start_step={start_step} must lie between 0 and the number of steps, {num_steps}")
    row_seed = seed if row_seed is None else row_seed
    stop = tf.int64.max // global_batch_size if num_steps is None else num_steps

    def batch(step: tf.Tensor) -> Batch:
        numbers = step * global_batch_size + tf.range(global_batch_size, dtype=tf.int64)
        row_ids = shuffled_rows(numbers, seed=seed, num_rows=store.num_rows)
        rows = add_features(read_rows(store, row_ids))
        return {**trim(rows, lengths), "row_ids": row_ids, "row_seeds": row_seeds(numbers, seed=row_seed)}

    lengths = _lengths(store, buckets)
    return _finished(tf.data.Dataset.range(start_step, stop), batch)


def evaluation_batches(
    store: RowStore,
    *,
    batch_size: int,
    buckets: Sequence[int] | None = None,
    num_rows: int | None = None,
) -> tf.data.Dataset:
    """Return every row of the store once, in order; the last batch is filled up with rows of weight 0.

    Args:
        store: The rows.
        batch_size: Rows in a batch.
        buckets: As in `training_batches`.
        num_rows: Take the first rows only.

    Returns:
        A dataset of dicts as from `training_batches`. Rows that fill up have `row_ids` -1, `segment_ids` 0
        and pad ids throughout.

    Raises:
        DataError: A size is not positive, or a bucket does not fit.
    """
    _check_positive("batch_size", batch_size)
    _check_positive("num_rows", store.num_rows if num_rows is None else num_rows)
    end = min(store.num_rows, store.num_rows if num_rows is None else num_rows)

    def batch(step: tf.Tensor) -> Batch:
        numbers = step * batch_size + tf.range(batch_size, dtype=tf.int64)
        real = numbers < end
        rows = blank_rows(read_rows(store, tf.where(real, numbers, 0)), real, store.pad_id)
        row_ids = tf.where(real, numbers, -1)
        return {
            **trim(add_features(rows), lengths),
            "row_ids": row_ids,
            "row_seeds": row_seeds(numbers, seed=0),
        }

    lengths = _lengths(store, buckets)
    return _finished(tf.data.Dataset.range(-(-end // batch_size)), batch)


def shuffled_rows(numbers: tf.Tensor, *, seed: int, num_rows: int) -> tf.Tensor:
    """Return which row stands at each place of the endless sequence of shuffled epochs.

    Args:
        numbers: int64 [B], places from 0.
        seed: The seed of the order.
        num_rows: Rows in an epoch.

    Returns:
        int64 [B] row indices; each epoch's are a permutation of [0, num_rows).
    """
    epochs = numbers // num_rows
    seeds = tf.stack([tf.fill(tf.shape(epochs), value) for value in _seed_words(seed)] + [epochs], axis=1)
    # The raw op: tf.random.experimental.index_shuffle pads a batch of seeds on the wrong axis (TensorFlow
    # 2.21), and a call for each row costs more than reading the row.
    return tf.raw_ops.RandomIndexShuffle(
        index=numbers % num_rows,
        seed=seeds,
        max_index=tf.constant(num_rows - 1, tf.int64),
        rounds=4,  # what the public function takes
    )


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


def read_rows(store: RowStore, row_ids: tf.Tensor) -> Batch:
    """Return rows by index, read in C++ from the memory-mapped file.

    ImmutableConst maps the file and Gather copies the wanted rows: the graph holds the path, and memory only
    the system's page cache. FixedLengthRecordDataset looks made for this, but it reads through the
    `header_bytes` that it skips, so a row costs its distance from the start of the file: on two cores 75 to
    500 rows a second from 30 to 300 MB files, where this gives about 100 000.

    Args:
        store: The rows.
        row_ids: int64 [B].

    Returns:
        A dict of int32 [B, seq_len]: `token_ids`, `targets`, `segment_ids`.
    """
    with tf.device("CPU:0"):
        rows = tf.raw_ops.ImmutableConst(
            dtype=tf.as_dtype(store.dtype),
            shape=[store.num_rows, len(FEATURES), store.seq_len],
            memory_region_name=str(store.path),
        )
        rows = tf.cast(tf.gather(rows, row_ids), tf.int32)  # [R, 3, T] -> [B, 3, T]
    return {name: rows[:, part] for part, name in enumerate(FEATURES)}


def blank_rows(rows: Batch, real: tf.Tensor, pad_id: int) -> Batch:
    """Make the rows where `real` (bool [B]) is false all padding."""
    blanks = {"token_ids": pad_id, "targets": pad_id, "segment_ids": 0}
    return {name: tf.where(real[:, None], rows[name], blank) for name, blank in blanks.items()}


def add_features(rows: Batch) -> Batch:
    """Add what follows from the segments: `positions` and `loss_weights`."""
    segment_ids = rows["segment_ids"]
    return {
        **rows,
        "positions": positions_from_segments(segment_ids),
        "loss_weights": tf.cast(segment_ids > 0, tf.float32),
    }


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


def trim(rows: Batch, lengths: Sequence[int]) -> Batch:
    """Cut [B, T] features to the smallest of `lengths` (sorted, up to T) that the longest row fits in."""
    if len(lengths) == 1:
        return rows
    longest = tf.reduce_max(tf.math.count_nonzero(rows["segment_ids"], axis=1))
    place = tf.searchsorted(tf.constant(lengths, tf.int64), longest[None], side="left")[0]
    length = tf.gather(tf.constant(lengths, tf.int32), place)
    return {name: feature[:, :length] for name, feature in rows.items()}


def _finished(steps: tf.data.Dataset, batch: Callable[[tf.Tensor], Batch]) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # Every worker can make every step's batch: tf.distribute shares out rows, as there are no files to share.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    dataset = steps.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)


def _lengths(store: RowStore, buckets: Sequence[int] | None) -> tuple[int, ...]:
    if buckets is None:
        return (store.seq_len,) if store.packing else default_buckets(store.seq_len)
    return checked_buckets(buckets, store.seq_len)


def _seed_words(seed: int) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.constant(_SHUFFLE, tf.int64), tf.constant(seed & 0xFFFFFFFF, tf.int64)


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise DataError(f"{name}={value} must be at least 1")
