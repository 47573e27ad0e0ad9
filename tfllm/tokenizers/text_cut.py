"""Cutting added tokens out of a text, as the `tokenizers` library does it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from tfllm.tokenizers.added_token import AddedToken

# Unicode's White_Space.
_WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_WORD = re.compile(r"\w")


class Piece(NamedTuple):
    """A part of a text: where it starts and ends, and the token it is, None for plain text."""

    start: int
    end: int
    token: AddedToken | None


class TextCut:
    """Finds tokens in texts: the leftmost one, and of those the longest.

    Args:
        tokens: What to look for.
        special: Whether special tokens are cut out; else their names are found and count as text.
    """

    def __init__(self, tokens: Sequence[AddedToken], *, special: bool):
        self._tokens = {token.content: token for token in tokens}
        self._special = special
        longest_first = sorted(self._tokens, key=lambda name: -len(name))
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> list[Piece]:
        """The pieces of a text, in order, without empty plain ones."""
        pieces, done = [], 0
        for match in self._pattern.finditer(text) if self._pattern is not None else ():
            token, (start, end) = self._tokens[match.group()], match.span()
            if (token.special and not self._special) or (token.single_word and _in_word(text, start, end)):
                continue
            if token.lstrip:
                start = max(done, len(text[:start].rstrip(_WHITE)))
            if token.rstrip:
                end = len(text) - len(text[end:].lstrip(_WHITE))
            if done < start:
                pieces.append(Piece(done, start, None))
            pieces.append(Piece(start, end, token))
            done = end
        return [*pieces, Piece(done, len(text), None)] if done < len(text) else pieces


UNCUT = TextCut((), special=False)  # takes every text as it is


def _in_word(text: str, start: int, end: int) -> bool:
    return bool(_WORD.match(text[start - 1 : start]) or _WORD.match(text[end : end + 1]))
