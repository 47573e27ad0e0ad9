"""Rows of a store or a mixture → tensors, read in C++ from memory-mapped files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from tfllm.data.layout import RowLayout
from tfllm.data.mixture import RowMixture, stores_of
from tfllm.data.store import RowStore

EXAMPLE_IDS = "example_ids"  # of each segment: the place of its record in its source; negative: no segment

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
        The features of the rows' layout, int32 or float32: [B, T] with a value for each token of their side, or
        [B, segments]. In a mixture of K sources `example_ids` are K times those of a source, and which it is.
    """

    def read(mapped: tf.Tensor, row_ids: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.gather(mapped, row_ids), tf.int32)

    numbers = gather_stores(rows, source_ids, row_ids, read)  # [B, width]
    features = {}
    for feature, start, stop in rows.layout.places():
        values = numbers[:, start:stop]
        features[feature.name] = tf.bitcast(values, tf.float32) if feature.dtype == "float32" else values
    count = len(stores_of(rows))
    if count > 1 and EXAMPLE_IDS in features:
        ids = features[EXAMPLE_IDS]
        features[EXAMPLE_IDS] = tf.where(ids >= 0, ids * count + source_ids[:, None], ids)
    return features


def gather_stores(
    rows: AnyRows,
    source_ids: tf.Tensor,
    row_ids: tf.Tensor,
    read: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Return what `read(mapped file [R, width], row_ids [b])` gives for the rows of each component, put
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
    """Return the memory-mapped file, [R, width] of the store's dtype, for C++ to gather from."""
    with tf.device("CPU:0"):
        return tf.raw_ops.ImmutableConst(
            dtype=tf.as_dtype(store.dtype),
            shape=[store.num_rows, store.layout.width],
            memory_region_name=os.fsencode(store.path),
        )


def blank_rows(rows: Batch, real: tf.Tensor, layout: RowLayout) -> Batch:
    """Make the rows where `real` (bool [B]) is false all padding."""
    blanks = {feature.name: tf.constant(feature.fill, feature.dtype) for feature in layout.features}
    return {name: tf.where(real[:, None], rows[name], blank) for name, blank in blanks.items()}


def trimmed_length(
    rows: AnyRows, source_ids: tf.Tensor, row_ids: tf.Tensor, lengths: Sequence[int], side: str = ""
) -> tf.Tensor | None:
    """Return the smallest of `lengths` (sorted, up to T) that a side of the longest of some rows fits in.

    Tokens come first in a row and padding last, so a row is longer than a length if the segment id at that
    place is not 0: one number is read for each row and length, and a share can look at its whole batch.

    Args:
        rows: A store or a mixture.
        source_ids: int32 [B].
        row_ids: int64 [B].
        lengths: The lengths.
        side: The side.

    Returns:
        int32 []; `None` where there is but one length.
    """
    if len(lengths) == 1:
        return None
    start = rows.layout.start(f"{side}segment_ids")

    def is_longer(mapped: tf.Tensor, row_ids: tf.Tensor) -> tf.Tensor:
        row, place = tf.meshgrid(row_ids, tf.constant(lengths[:-1], tf.int64), indexing="ij")
        return tf.cast(tf.gather_nd(mapped, tf.stack([row, start + place], axis=-1)) != 0, tf.int32)

    longer = gather_stores(rows, source_ids, row_ids, is_longer)  # [B, L - 1]
    exceeded = tf.reduce_sum(tf.reduce_max(longer, axis=0))
    return tf.gather(tf.constant(lengths, tf.int32), exceeded)


def trim(features: Batch, lengths: Mapping[str, tf.Tensor | None], sides: Mapping[str, str]) -> Batch:
    """Cut what goes with the tokens of a side, [B, T, …], to that side's length, int32 []; `None` leaves it whole.

    Args:
        features: By name.
        lengths: A length for each side.
        sides: The side of each feature that goes with tokens; others are left whole.
    """

    def cut(name: str, feature: tf.Tensor) -> tf.Tensor:
        length = lengths[sides[name]] if name in sides else None
        return feature if length is None else feature[:, :length]

    return {name: cut(name, feature) for name, feature in features.items()}
