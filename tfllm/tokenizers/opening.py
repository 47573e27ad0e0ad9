"""How a decoded text begins, where its first token is written otherwise than the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Opening:
    """What decoding writes at the start of a text: WordPiece no blank, SentencePiece not the one it put there.

    Args:
        token_bytes: the bytes each id stands for at the start, in id order.
        goes_on: whether what follows such an id still stands at the start, in id order.
    """

    token_bytes: tuple[bytes, ...]
    goes_on: tuple[bool, ...]

    def texts(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of the ids at the start; ids beyond the list are written as usual."""
        texts = []
        for token_id in ids:
            texts.append(self.token_bytes[token_id])
            if not self.goes_on[token_id]:
                break
        return texts
