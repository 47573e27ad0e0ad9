"""Which side of the train and validation split a document falls on."""

from __future__ import annotations

import hashlib

from tfllm.data.errors import DataError


def split_of(text: str, *, fraction: float, seed: int) -> str:
    """Return "train" or "validation" by a hash of the document's text.

    The answer depends on the text alone, so identical documents always fall on one side, and adding documents
    moves no other.

    Args:
        text: The document.
        fraction: The share of documents held out for validation, in (0, 1).
        seed: Another seed is another split.

    Raises:
        DataError: `fraction` is not between 0 and 1.
    """
    if not 0.0 < fraction < 1.0:
        raise DataError(f"validation fraction={fraction} must lie between 0 and 1; try 0.05")
    digest = hashlib.sha256(f"{seed}:".encode() + text.encode()).digest()
    return "validation" if int.from_bytes(digest[:8], "big") < fraction * 2.0**64 else "train"
