"""Texts as tokens are learned from them: repaired, and without words or lines that learning takes hours for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from tfllm.tokenizers.repair import repair_text

LONGEST_WORD, LONGEST_LINE = 1000, 4000  # characters
# Merging a pair in a word costs its length for every place where it stands, so a word costs its length squared: 25 s
# at 200,000 characters. Data in base64 are such words.
_LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD}}}(?=\S)")
_LINE = re.compile(rf"[^\n]{{1,{LONGEST_LINE}}}(?!\S)")


def learnable_texts(texts: Iterable[str]) -> Iterator[str]:
    """Yield texts, repaired, a line end within words of more than 1,000 characters."""
    for text in texts:
        yield _LONG_WORD.sub("\\g<0>\n", repair_text(text))


def learnable_lines(texts: Iterable[str]) -> Iterator[str]:
    """Yield the lines of texts; those of more than 4,000 characters are cut before a blank."""
    for text in learnable_texts(texts):
        yield from _LINE.findall(text)
