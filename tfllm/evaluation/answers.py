"""How well questions are answered, as SQuAD's scripts count it."""

from __future__ import annotations

import collections
import re
import string
from collections.abc import Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized_answer(text: str) -> str:
    """Return a text in small letters, without punctuation and English articles, a blank between words."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def answer_scores(said: str, meant: Sequence[str]) -> tuple[float, float]:
    """Compare an answer with those that are right: whether it is one of them, and the best F1 of its words with one.

    Args:
        said: The answer; empty where none is seen.
        meant: The answers that are right; none where there is none: then only an empty one is.
    """
    answers = [text for text in meant if normalized_answer(text)] or [""]
    exact = max(float(normalized_answer(said) == normalized_answer(text)) for text in answers)
    return exact, max(
        _f1(normalized_answer(said).split(), normalized_answer(text).split()) for text in answers
    )


def _f1(said: Sequence[str], meant: Sequence[str]) -> float:
    if not said or not meant:
        return float(said == meant)
    both = sum((collections.Counter(said) & collections.Counter(meant)).values())
    return 2.0 * both / (len(said) + len(meant))


def best_span(
    start: np.ndarray, end: np.ndarray, allowed: np.ndarray, longest: int
) -> tuple[int, int, float]:
    """Return the first and the last token of the best span, and its score; `start[i] + end[j]` over all spans i ≤ j.

    Args:
        start: float [n], how likely each token is the first.
        end: float [n], how likely it is the last.
        allowed: bool [n], tokens that a span may begin and end with.
        longest: Tokens of a span, at most.

    Returns:
        (0, 0, -inf) where no token is allowed.
    """
    start, end = (np.where(allowed, scores, -np.inf).astype(np.float64) for scores in (start, end))
    best = (0, 0, -np.inf)
    for more in range(min(longest, len(start))):
        sums = start[: len(start) - more] + end[more:]
        place = int(sums.argmax())
        if sums[place] > best[2]:
            best = (place, place + more, float(sums[place]))
    return best


def best_threshold(odds: np.ndarray, answered: np.ndarray, silent: np.ndarray) -> tuple[float, float]:
    """Return the threshold at which saying nothing helps most, and the mean score there, as SQuAD 2.0's script finds
    it.

    Args:
        odds: float [N]: how much likelier no answer is than the best one.
        answered: float [N]: the score of the best answer.
        silent: float [N]: the score of saying nothing.

    Returns:
        The largest odds at which an answer is still given; of equally good thresholds the smallest. NaN of no examples.
    """
    if not len(odds):
        return float("nan"), float("nan")
    order = np.argsort(odds, kind="stable")
    gains = (answered - silent)[order]
    totals = silent.sum() + np.concatenate([[0.0], np.cumsum(gains)])
    # Examples of the same odds are answered together.
    sorted_odds = odds[order]
    whole = np.concatenate([[True], sorted_odds[1:] != sorted_odds[:-1], [True]])
    count = int(np.where(whole, totals, -np.inf).argmax())
    threshold = sorted_odds[count - 1] if count else sorted_odds[0] - 1.0
    return float(threshold), float(totals[count] / len(odds))
