r"""Encoding large texts by looking words up: five times as fast as splitting and merging in the library.

A text is split by a regular expression in Python, whose `re` is quicker at it than the library, and a
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
from tfllm.tokenizers.word_split import GPT2, WordSplit

# What is remembered takes 200 MB at most, and then begins anew. English text of a gigabyte does not come to it;
# Chinese, whose words run on to the next comma, does often, and is no slower for it than in the library.
_MOST_WORDS, _MOST_CHARACTERS = 500_000, 10_000_000


class WordEncoder:
    """Encodes texts word by word, and remembers the words.

    Args:
        library: A tokenizer of the `tokenizers` library with that split and GPT-2's byte alphabet; it is changed.
        split: The way texts are split into words.
    """

    def __init__(self, library: tokenizers.Tokenizer, split: WordSplit = GPT2):
        self._split = split
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._library = library
        self._known: dict[str, bytes] = {}
        self._num_characters = 0

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode valid Unicode, each text to an int32 array."""
        split = [_pattern(self._split, _largest(text)).findall(text) for text in texts]
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
        return {**self.__dict__, "_known": {}, "_num_characters": 0}  # the words can be found again


def _largest(text: str) -> int:
    """The largest code point that may be in the text; a pattern for fewer of them is quicker."""
    if text.isascii():
        return 0x7F
    return 0xFFFF if len(text.encode("utf-16-le")) == 2 * len(text) else 0x10FFFF


@cache
def _pattern(split: WordSplit, largest: int) -> re.Pattern[str]:
    """The split as an expression, with the classes of code points spelt out: `re` has no `\\p{L}`.

    Up to U+FFFF `re` looks a code point up in a table; beyond it goes through all ranges, one by one, which
    takes ten times as long.
    """
    classes = (_ranges(kind, largest, split.own_digits) for kind in (LETTER, NUMBER, SPACE))
    return re.compile(split.expression(*classes))


def _ranges(kind: int, largest: int, own_digits: bool) -> str:
    """The code points of a class, as what stands between brackets in a regular expression."""
    if largest == 0x7F:  # known by heart: finding the others out takes half a second
        return {LETTER: "A-Za-z", NUMBER: "0-9", SPACE: r" \t-\r"}[kind]
    starts, classes = code_point_classes(own_digits)
    ends = [*(starts[1:] - 1), 0x10FFFF]
    runs = [
        (int(start), min(int(end), largest))
        for start, end, own in zip(starts, ends, classes, strict=True)
        if own == kind and start <= largest
    ]
    return "".join(rf"\U{start:08x}-\U{end:08x}" for start, end in runs)
