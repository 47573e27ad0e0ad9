"""Runs of tokens that each stand for one byte, such as <0x0A>, and the text they make."""

from __future__ import annotations

import codecs
import dataclasses
from collections.abc import Sequence
from itertools import groupby

FAULT = "\ufffd"
# What vocabularies call them.
BYTE_NAMES = tuple(f"<0x{byte:02X}>" for byte in range(256))
# Asked for by its name, Python decodes with one U+FFFD for each byte that is in no character.
_EACH = "tfllm.each_byte"
codecs.register_error(_EACH, lambda error: (FAULT, _start(error) + 1))


def _start(error: UnicodeError) -> int:
    assert isinstance(error, UnicodeDecodeError)
    return error.start


@dataclasses.dataclass(frozen=True)
class ByteRuns:
    """Which tokens are bytes, and what becomes of a run of them that is not UTF-8: a U+FFFD for each faulty byte.

    Args:
        ids: The tokens.
        whole: A run with one fault has faults only, as in the `tokenizers` library; else the bytes that are in no
            character are the faulty ones, as in `sentencepiece`.
    """

    ids: frozenset[int]
    whole: bool

    def join(self, ids: Sequence[int], texts: Sequence[bytes]) -> bytes:
        """The text of tokens: `texts` joined, faults replaced. What stands for nothing does not part a run."""
        pairs = ((i in self.ids, text) for i, text in zip(ids, texts, strict=True) if text)
        runs = (
            (is_byte, b"".join(text for _, text in run)) for is_byte, run in groupby(pairs, lambda p: p[0])
        )
        return b"".join(self._repaired(run) if is_byte else run for is_byte, run in runs)

    def _repaired(self, run: bytes) -> bytes:
        text = run.decode("utf-8", errors=_EACH)
        if self.whole and text.encode() != run:
            return FAULT.encode() * len(run)
        return text.encode()
