"""Row lengths that batches are trimmed to, so that few shapes are ever traced."""

from __future__ import annotations

from collections.abc import Sequence

from tfllm.data.errors import DataError

_SMALLEST = 32  # below it a step costs its overhead, so a shorter shape would only add a trace


def default_buckets(seq_len: int) -> tuple[int, ...]:
    """Return the powers of two from 32 that are below `seq_len`, then `seq_len` itself."""
    lengths = []
    length = _SMALLEST
    while length < seq_len:
        lengths.append(length)
        length *= 2
    return (*lengths, seq_len)


def checked_buckets(buckets: Sequence[int], seq_len: int) -> tuple[int, ...]:
    """Return `buckets` sorted, each once, ending in `seq_len` (a row may be that long).

    Raises:
        DataError: A bucket is not between 1 and `seq_len`.
    """
    bad = [length for length in buckets if not 1 <= length <= seq_len]
    if bad:
        raise DataError(
            f"buckets={list(buckets)} must lie between 1 and data.seq_len={seq_len}, but {bad[0]} does not; "
            f"try {list(default_buckets(seq_len))}"
        )
    return tuple(sorted({*buckets, seq_len}))
