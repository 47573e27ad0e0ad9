"""Where the words of a text stand."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from tfllm.tokenizers.repair import repair_text

Place = tuple[int, int]  # the first character, and the one behind the last

# Scripts that put no blanks between words: each character is one, with its marks.
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


def word_places(text: str) -> list[Place]:
    """Return the words of a text: letters, digits and marks next to each other, or any other character that is seen.

    Of scripts without blanks between words each letter is a word of its own.
    """
    places: list[Place] = []
    open_word = False
    for place, character in enumerate(text):
        kind = unicodedata.category(character)
        joins = kind[0] == "M" or character in "\u200c\u200d"
        if joins and places and places[-1][1] == place:
            places[-1] = (places[-1][0], place + 1)
        elif kind[0] in "LN" or character == "_":
            alone = unicodedata.name(character, "").startswith(_UNSPACED)
            if open_word and not alone:
                places[-1] = (places[-1][0], place + 1)
            else:
                places.append((place, place + 1))
            open_word = not alone
        else:
            open_word = False
            if kind[0] not in "ZC":
                places.append((place, place + 1))
    return places


def joined(words: Sequence[str]) -> tuple[str, list[Place]]:
    """Return the text of words, a blank between two, and their places in it; what is not Unicode is repaired."""
    words = [repair_text(word) for word in words]
    places: list[Place] = []
    start = 0
    for word in words:
        places.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(words), places
