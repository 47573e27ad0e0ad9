"""The four classes of code points that GPT-2's split tells apart, as ranges."""

from __future__ import annotations

from functools import cache

import numpy as np
from tokenizers import Regex, normalizers, pre_tokenizers

LETTER, NUMBER, SPACE, OTHER = range(4)


@cache
def code_point_classes(own_digits: bool = False) -> tuple[np.ndarray, np.ndarray]:
    r"""Return the class of every code point, as runs of equal class.

    The runs are found by asking the `tokenizers` library's own regular expressions for `\p{L}`, `\p{N}` and
    `\s`, so they follow its version of Unicode and not Python's or ICU's.

    Args:
        own_digits: Numbers are also what the library's `Digits` takes for one, by a newer version of Unicode.

    Returns:
        starts: int32 [R], ascending, the first code point of each run; `starts[0] == 0`.
        classes: int32 [R], LETTER, NUMBER, SPACE or OTHER.
    """
    code_points = np.concatenate([np.arange(0xD800), np.arange(0xE000, 0x110000)]).astype(np.uint32)
    classes = np.full(0x110000, OTHER, np.int32)
    # One pass over everything, then passes over the few that matched: a pass over a million code points takes
    # 0.3 s.
    classified = code_points[_matches(r"[\p{L}\p{N}\s]", code_points)]
    classes[classified] = LETTER
    classes[classified[_matches(r"\p{N}", classified)]] = NUMBER
    classes[classified[_matches(r"\s", classified)]] = SPACE
    if own_digits:
        classes[_digits(code_points)] = NUMBER
    starts = np.flatnonzero(np.diff(classes, prepend=-1)).astype(np.int32)
    return starts, classes[starts]


def _matches(pattern: str, code_points: np.ndarray) -> np.ndarray:
    # The replacement differs from every code point it can replace: U+0000 is in none of the three classes.
    text = code_points.astype("<u4").tobytes().decode("utf-32-le")
    replaced = normalizers.Replace(Regex(pattern), "\0").normalize_str(text)
    return (np.frombuffer(replaced.encode("utf-32-le"), "<u4") == 0) & (code_points != 0)


def _digits(code_points: np.ndarray) -> list[int]:
    """The code points that `Digits` cuts out."""
    text = code_points.astype("<u4").tobytes().decode("utf-32-le")
    # Two letters between any two: what is not cut out never stands alone.
    pieces = pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str("aa".join(text))
    return [ord(piece) for piece, _ in pieces if len(piece) == 1]
