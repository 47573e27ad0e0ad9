r"""Encoding large texts by looking words up: five times as fast as splitting and merging in the library.

A text is split by GPT-2's regular expression in Python, whose `re` is quicker at it than the library, and a
word's ids are computed by the library once and then found in a dict, because most words of a large text
have come before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import tokenizers
from tokenizers import pre_tokenizers

from tfllm.tokenizers.code_point_classes import LETTER, NUMBER, SPACE, code_point_classes

# What is remembered takes 200 MB at most, and then begins anew. English text of a gigabyte does not come to it;
# Chinese, whose words run on to the next comma, does often, and is no slower for it than in the library.
_MOST_WORDS, _MOST_CHARACTERS = 500_000, 10_000_000


class WordEncoder:
    """Encodes texts word by word, and remembers the words.

    Args:
        library: A tokenizer of the `tokenizers` library with GPT-2's split and byte alphabet; it is changed.
    """

    def __init__(self, library: tokenizers.Tokenizer):
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._library = library
        self._known: dict[str, bytes] = {}
        self._num_characters = 0

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode valid Unicode, each text to an int32 array."""
        split = [_pattern(_largest(text)).findall(text) for text in texts]
        if len(self._known) > _MOST_WORDS or self._num_characters > _MOST_CHARACTERS:
            self._known, self._num_characters = {}, 0
        known = self._known  # another thread may put a new one there, and leaves this one alone
        missing = list({word: None for words in split for word in words if word not in known})
        known.update(zip(missing, self._encode_words(missing), strict=True))
        self._num_characters += sum(map(len, missing))
        return [np.frombuffer(bytearray().join(map(known.__getitem__, words)), np.int32) for words in split]

    def _encode_words(self, words: list[str]) -> list[bytes]:
        encodings = self._library.encode_batch_fast(words, add_special_tokens=False)
        return [np.array(encoding.ids, np.int32).tobytes() for encoding in encodings]

    def __getstate__(self) -> dict[str, Any]:
        return {"_library": self._library, "_known": {}, "_num_characters": 0}  # the words can be found again


def _largest(text: str) -> int:
    """The largest code point that may be in the text; a pattern for fewer of them is quicker."""
    if text.isascii():
        return 0x7F
    return 0xFFFF if len(text.encode("utf-16-le")) == 2 * len(text) else 0x10FFFF


@cache
def _pattern(largest: int) -> re.Pattern[str]:
    """GPT-2's split (its encoder.py), with the classes of code points spelt out: `re` has no `\\p{L}`.

    Up to U+FFFF `re` looks a code point up in a table; beyond it goes through all ranges, one by one, which
    takes ten times as long.
    """
    letter, number, space = (_ranges(kind, largest) for kind in (LETTER, NUMBER, SPACE))
    words = rf"'s|'t|'re|'ve|'m|'ll|'d| ?[{letter}]+| ?[{number}]+| ?[^{letter}{number}{space}]+"
    return re.compile(rf"{words}|[{space}]+(?![^{space}])|[{space}]+")


def _ranges(kind: int, largest: int) -> str:
    """The code points of a class, as what stands between brackets in a regular expression."""
    if largest == 0x7F:  # known by heart: finding the others out takes half a second
        return {LETTER: "A-Za-z", NUMBER: "0-9", SPACE: r" \t-\r"}[kind]
    starts, classes = code_point_classes()
    ends = [*(starts[1:] - 1), 0x10FFFF]
    runs = [
        (int(start), min(int(end), largest))
        for start, end, own in zip(starts, ends, classes, strict=True)
        if own == kind and start <= largest
    ]
    return "".join(rf"\U{start:08x}-\U{end:08x}" for start, end in runs)
