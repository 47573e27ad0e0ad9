"""Documents of any length → rows of one length, every token predicted exactly once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from tfllm.data.errors import DataError
from tfllm.data.layout import Rows


class RowPacker:
    """Cuts a stream of tokenised documents into rows of `seq_len`.

    A document's ids d1..dn are the pairs `inputs = [bos, d1..dn]`, `targets = [d1..dn, eos]`. Where it is
    cut, the next chunk's inputs start with the last chunk's last target: no target is lost or repeated.

    With `packing` the pairs of all documents are one stream cut every `seq_len`, and only the last row has
    padding. A cut may leave a short fragment at a row's end; it is kept, because leaving it out would trade a
    few targets with little context for padding, and the rest of the document starts afresh either way.
    Without `packing` a row holds one chunk of one document.

    Rows are dicts of int32 arrays [N, seq_len]: `token_ids`, `targets`, and `segment_ids` (1, 2, … in a row,
    0 is padding; padded `token_ids` and `targets` are `pad_id`). Documents without ids are dropped.

    Args:
        seq_len: Tokens in a row.
        packing: Fill rows with several documents, or one chunk a row.
        bos_id: The id before the first token.
        eos_id: The id after the last token.
        pad_id: The id that fills rows.

    Raises:
        DataError: `seq_len` is less than 2.
    """

    def __init__(self, *, seq_len: int, packing: bool, bos_id: int, eos_id: int, pad_id: int):
        if seq_len < 2:
            raise DataError(f"data.seq_len={seq_len} must be at least 2; try 256")
        self.seq_len = seq_len
        self.packing = packing
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.pad_id = pad_id
        self._rest = np.zeros([3, 0], np.int32)  # pairs (as `_pairs` makes them) that do not fill a row yet

    def add(self, documents: Iterable[Sequence[int] | np.ndarray]) -> Rows:
        """Take documents (sequences of ids) and return the rows that they fill, perhaps none."""
        pairs = self._pairs(documents)
        if not self.packing:
            return self._one_chunk_a_row(pairs)
        pairs[2] += self._rest[2].max(initial=0)
        pairs = np.concatenate([self._rest, pairs], axis=1)
        full = pairs.shape[1] // self.seq_len * self.seq_len
        self._rest = pairs[:, full:]
        self._rest[2] -= self._rest[2, :1].max(initial=1) - 1  # numbers stay small however long the stream
        return self._rows(pairs[:, :full].reshape(3, -1, self.seq_len))

    def finish(self) -> Rows:
        """Return the last row, padded, if there is one."""
        rest, self._rest = self._rest, np.zeros([3, 0], np.int32)
        row = self._empty(1 if rest.size else 0)
        row[:, :, : rest.shape[1]] = rest[:, None, :] if rest.size else 0
        return self._rows(row)

    def _pairs(self, documents: Iterable[Sequence[int] | np.ndarray]) -> np.ndarray:
        """Documents -> int32 [3, n]: input, target, and the document's number from 1."""
        arrays = [np.asarray(ids, np.int32) for ids in documents]
        arrays = [ids for ids in arrays if ids.size]
        bos, eos = np.array([self.bos_id], np.int32), np.array([self.eos_id], np.int32)
        lengths = [ids.size + 1 for ids in arrays]
        pairs = np.zeros([3, sum(lengths)], np.int32)
        if arrays:
            pairs[0] = np.concatenate([part for ids in arrays for part in (bos, ids)])
            pairs[1] = np.concatenate([part for ids in arrays for part in (ids, eos)])
            pairs[2] = np.repeat(np.arange(1, len(arrays) + 1), lengths)
        return pairs

    def _one_chunk_a_row(self, pairs: np.ndarray) -> Rows:
        lengths = np.bincount(pairs[2])[1:]
        offsets = np.arange(pairs.shape[1]) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        rows_of = -(-lengths // self.seq_len)
        row = np.repeat(np.cumsum(rows_of) - rows_of, lengths) + offsets // self.seq_len
        cut = self._empty(int(rows_of.sum()))
        cut[:, row, offsets % self.seq_len] = pairs
        return self._rows(cut)

    def _empty(self, num_rows: int) -> np.ndarray:
        rows = np.full([3, num_rows, self.seq_len], self.pad_id, np.int32)
        rows[2] = 0
        return rows

    def _rows(self, cut: np.ndarray) -> Rows:
        """Documents in a row are consecutive: their numbers less the first one's are the segments."""
        documents = cut[2]
        segments = np.where(documents > 0, documents - documents[:, :1] + 1, 0)
        return {"token_ids": cut[0], "targets": cut[1], "segment_ids": segments.astype(np.int32)}


def positions_from_segments(segment_ids: np.ndarray) -> np.ndarray:
    """Return each token's place in its segment: 0, 1, … and again from 0 where the segment changes.

    Args:
        segment_ids: int [..., T].

    Returns:
        int32 [..., T]; padding counts as one more segment, so positions stay below T.
    """
    segment_ids = np.asarray(segment_ids)
    index = np.broadcast_to(np.arange(segment_ids.shape[-1], dtype=np.int32), segment_ids.shape)
    starts = np.ones(segment_ids.shape, bool)
    starts[..., 1:] = segment_ids[..., 1:] != segment_ids[..., :-1]
    return index - np.maximum.accumulate(np.where(starts, index, 0), axis=-1)
