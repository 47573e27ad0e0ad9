"""A sample of documents that fits in a budget."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def sampled_texts(texts: Iterable[str], *, max_bytes: int) -> list[bytes]:
    """Return all texts in their order if they fit in `max_bytes`, else a sample that takes half of it or more.

    A text is in the sample if a hash of its content lies below a threshold, which is halved each time the
    sample grows too large: the sample covers the whole stream evenly, is the same on every run, and memory
    holds `max_bytes` at most. (Where a few texts are nearly as large as the budget, it may take less.)

    Args:
        texts: The texts, read once, to the end.
        max_bytes: The budget, in bytes of UTF-8.

    Returns:
        The texts in UTF-8.
    """
    threshold, size = 1 << 64, 0
    sample: list[tuple[int, bytes]] = []
    for text in texts:
        data = text.encode(errors="replace")
        place = int.from_bytes(hashlib.blake2b(data, digest_size=8, person=b"sample").digest(), "big")
        if place >= threshold:
            continue
        sample.append((place, data))
        size += len(data)
        while size > max_bytes and len(sample) > 1:
            threshold //= 2
            sample = [kept for kept in sample if kept[0] < threshold] or [min(sample)]
            size = sum(len(data) for _, data in sample)
    return [data for _, data in sample]
