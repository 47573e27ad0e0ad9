"""Rows of a store or a mixture → tensors, read in C++ from memory-mapped files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import tensorflow as tf

from tfllm.data.mixture import RowMixture, stores_of
from tfllm.data.piece import FEATURES
from tfllm.data.store import RowStore

AnyRows = RowStore | RowMixture
Batch = dict[str, tf.Tensor]


def read_rows(rows: AnyRows, source_ids: tf.Tensor, row_ids: tf.Tensor) -> Batch:
    """Return rows by component and index, read in C++ from the memory-mapped files.

    ImmutableConst maps a file and Gather copies the wanted rows: the graph holds the path, and memory only
    the system's page cache. FixedLengthRecordDataset looks made for this, but it reads through the
    `header_bytes` that it skips, so a row costs its distance from the start of the file: on two cores 75 to
    500 rows a second from 30 to 300 MB files, where this gives about 100 000.

    Args:
        rows: A store or a mixture.
        source_ids: int32 [B].
        row_ids: int64 [B].

    Returns:
        A dict of int32 [B, seq_len]: `token_ids`, `targets`, `segment_ids`.
    """

    def read(mapped: tf.Tensor, row_ids: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.gather(mapped, row_ids), tf.int32)

    features = gather_stores(rows, source_ids, row_ids, read)  # [B, 3, T]
    return {name: features[:, part] for part, name in enumerate(FEATURES)}


def gather_stores(
    rows: AnyRows,
    source_ids: tf.Tensor,
    row_ids: tf.Tensor,
    read: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Return what `read(mapped file [R, 3, T], row_ids [b])` gives for the rows of each component, put
    together in the order of the rows, [B, …]."""
    stores = stores_of(rows)
    if len(stores) == 1:
        return read(mapped_rows(stores[0]), row_ids)
    places = [tf.where(source_ids == number)[:, 0] for number in range(len(stores))]
    parts = [
        read(mapped_rows(store), tf.gather(row_ids, own)) for store, own in zip(stores, places, strict=True)
    ]
    together = tf.dynamic_stitch([tf.cast(own, tf.int32) for own in places], parts)
    return tf.ensure_shape(together, [row_ids.shape[0], *parts[0].shape[1:]])


@tf.autograph.experimental.do_not_convert  # there is nothing to convert, and what Python's own files hold cannot be
def mapped_rows(store: RowStore) -> tf.Tensor:
    """Return the memory-mapped file, [R, 3, T] of the store's dtype, for C++ to gather from."""
    with tf.device("CPU:0"):
        return tf.raw_ops.ImmutableConst(
            dtype=tf.as_dtype(store.dtype),
            shape=[store.num_rows, len(FEATURES), store.seq_len],
            memory_region_name=os.fsencode(store.path),
        )


def blank_rows(rows: Batch, real: tf.Tensor, pad_id: int) -> Batch:
    """Make the rows where `real` (bool [B]) is false all padding."""
    blanks = {"token_ids": pad_id, "targets": pad_id, "segment_ids": 0}
    return {name: tf.where(real[:, None], rows[name], blank) for name, blank in blanks.items()}


def trimmed_length(
    rows: AnyRows, source_ids: tf.Tensor, row_ids: tf.Tensor, lengths: Sequence[int]
) -> tf.Tensor | None:
    """Return the smallest of `lengths` (sorted, up to T) that the longest of some rows fits in.

    Tokens come first in a row and padding last, so a row is longer than a length if the segment id at that
    place is not 0: one number is read for each row and length, and a share can look at its whole batch.

    Args:
        rows: A store or a mixture.
        source_ids: int32 [B].
        row_ids: int64 [B].
        lengths: The lengths.

    Returns:
        int32 []; `None` where there is but one length.
    """
    if len(lengths) == 1:
        return None

    def is_longer(mapped: tf.Tensor, row_ids: tf.Tensor) -> tf.Tensor:
        row, place = tf.meshgrid(row_ids, tf.constant(lengths[:-1], tf.int64), indexing="ij")
        segments = tf.fill(tf.shape(row), tf.constant(FEATURES.index("segment_ids"), tf.int64))
        return tf.cast(tf.gather_nd(mapped, tf.stack([row, segments, place], axis=-1)) != 0, tf.int32)

    longer = gather_stores(rows, source_ids, row_ids, is_longer)  # [B, L - 1]
    exceeded = tf.reduce_sum(tf.reduce_max(longer, axis=0))
    return tf.gather(tf.constant(lengths, tf.int32), exceeded)


def trim(rows: Batch, length: tf.Tensor | None) -> Batch:
    """Cut [B, T] features to `length`, int32 []; `None` leaves them whole."""
    return rows if length is None else {name: feature[:, :length] for name, feature in rows.items()}
