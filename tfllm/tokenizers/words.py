"""Where words begin among tokens, whatever the tokenizer."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence

import numpy as np

_BLANK, _LETTER, _ALONE = range(3)  # kinds of characters
# Scripts that put no blanks between words; BERT's BasicTokenizer has most of them alike, each character a word.
_ALONE_BLOCKS = (
    (0x3040, 0x30FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


def word_starts(token_bytes: Sequence[bytes], ids: np.ndarray) -> np.ndarray:
    """Return whether each token of a text begins a word; the first always does.

    A word is a run of letters, digits and marks, or any other character alone. The tokens' bytes are looked at, and so
    no text is needed: `▁the`, `Ġthe` and WordPiece's `the` all begin with a blank, as they are decoded. A token that
    is a part of a character, or begins inside one, goes on with the word before it unless it is its first part.

    Args:
        token_bytes: The bytes of each id, as a tokenizer has them.
        ids: int [n], without special tokens.

    Returns:
        bool [n].
    """
    if not len(ids):
        return np.zeros(0, bool)
    parts = [token_bytes[i] for i in ids]
    # A byte that is no UTF-8 becomes one character, so places stay countable.
    text = b"".join(parts).decode("utf-8", "surrogateescape")
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _kinds()[codes]
    begins = (kinds == _BLANK) | (kinds == _ALONE)
    begins[1:] |= (kinds[1:] == _LETTER) & (kinds[:-1] != _LETTER)
    begins[:1] = True
    at = np.zeros(sum(map(len, parts)) + 1, bool)  # by byte: whether a word begins there
    escaped = (codes >= 0xDC80) & (codes <= 0xDCFF)
    sizes = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    sizes[escaped] = 1
    at[np.cumsum(sizes)[:-1]] = begins[1:]
    at[0] = True
    starts = np.cumsum([0, *map(len, parts[:-1])])
    found = at[starts]
    found[0] = True
    return found


@functools.cache
def _kinds() -> np.ndarray:
    """The kind of every character, uint8 [0x110000]."""
    table = np.full(0x110000, _LETTER, np.uint8)
    for code in range(0x110000):
        character = chr(code)
        if character.isspace():
            table[code] = _BLANK
        elif unicodedata.category(character)[0] in "PS":
            table[code] = _ALONE
    for low, high in _ALONE_BLOCKS:
        table[low : high + 1] = _ALONE
    return table
