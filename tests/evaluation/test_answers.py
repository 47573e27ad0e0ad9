"""Answers are scored as SQuAD's scripts score them."""

import itertools

import numpy as np
import pytest

from tfllm.evaluation.answers import answer_scores, best_span, best_threshold, normalized_answer


def test_answers_are_compared_without_case_punctuation_and_articles():
    assert normalized_answer(" The  cat's-paw, AND a hat!") == "catspaw and hat"
    assert answer_scores("the Eiffel Tower.", ["Eiffel tower", "tower"]) == (1.0, 1.0)
    exact, f1 = answer_scores("in the big tower", ["Eiffel Tower", "big old tower"])
    assert exact == 0.0 and f1 == pytest.approx(2 * 2 / (3 + 3))
    assert answer_scores("a a b", ["a b b"]) == (0.0, pytest.approx(2 * 1 / (1 + 2)))  # "a" is an article
    assert answer_scores("x x y", ["x y y"])[1] == pytest.approx(2 * 2 / 6)  # each word as often as in both


def test_no_answer_is_right_where_there_is_none_and_only_there():
    assert answer_scores("", []) == (1.0, 1.0) and answer_scores("x", []) == (0.0, 0.0)
    assert answer_scores("", ["x"]) == (0.0, 0.0)
    assert answer_scores("", ["the"]) == (1.0, 1.0)  # nothing is left of it


def test_the_best_span_is_that_of_all_of_them():
    rng = np.random.default_rng(0)
    for _ in range(200):
        n, longest = int(rng.integers(1, 9)), int(rng.integers(1, 6))
        start, end = rng.normal(size=[2, n])
        allowed = rng.random(n) < 0.7
        spans = [
            (i, j, start[i] + end[j])
            for i, j in itertools.product(range(n), range(n))
            if i <= j < i + longest and allowed[i] and allowed[j]
        ]
        best = max(spans, key=lambda span: span[2], default=(0, 0, -np.inf))
        assert best_span(start, end, allowed, longest) == pytest.approx(best)


def by_steps(odds, answered, silent):
    """The search of SQuAD 2.0's script: from saying nothing at all, one question more is answered after another."""
    best = total = sum(silent)
    for index in np.argsort(odds, kind="stable"):
        total += answered[index] - silent[index]
        best = max(best, total)
    return best / len(odds)


def test_the_best_threshold_is_that_of_squads_script():
    rng = np.random.default_rng(1)
    for _ in range(200):
        count = int(rng.integers(1, 12))
        odds, answered = rng.normal(size=count), rng.random(count)
        silent = (rng.random(count) < 0.4).astype(float)
        answered[silent > 0] = 0.0
        threshold, best = best_threshold(odds, answered, silent)
        assert best == pytest.approx(by_steps(odds, answered, silent))
        assert np.where(odds > threshold, silent, answered).mean() == pytest.approx(best)
    # Of equal odds all are answered or none.
    threshold, best = best_threshold(np.array([0.0, 0.0]), np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert best == 0.5
    assert np.isnan(best_threshold(np.zeros(0), np.zeros(0), np.zeros(0))).all()
