"""BLEU, chrF and ROUGE are those of their libraries, of all texts and of samples of them."""

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from tfllm.evaluation.texts import METRICS, signatures, text_metrics

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat,",
    "and",
    "it's",
    "3.5",
    "km;",
    "l'été",
    "où",
    "«ça»",
    "va",
    "—",
    "東京",
    "are",
    "running",
    "runs.",
]


def made(count, references, seed=0):
    rng = np.random.default_rng(seed)

    def text(least):
        lines = [" ".join(rng.choice(WORDS, rng.integers(least, 12))) for _ in range(rng.integers(1, 4))]
        return "\n".join(lines)

    right = [[text(1) for _ in range(references)] for _ in range(count)]
    # Some are right but for a word or two, some something else, some empty.
    written = []
    for number, each in enumerate(right):
        words = each[number % references].split(" ")
        words[rng.integers(len(words))] = str(rng.choice(WORDS))
        written.append((" ".join(words), text(0), "")[min(number % 7, 2) if number % 7 < 3 else 0])
    return written, right


@pytest.mark.parametrize("references", [1, 3])
def test_they_equal_the_libraries(references):
    written, right = made(500, references)
    found = text_metrics(written, right)
    assert tuple(found) == METRICS
    by_place = [list(each) for each in zip(*right, strict=True)]
    bleu, chrf = BLEU(), CHRF()
    assert (
        found["bleu"] == pytest.approx(bleu.corpus_score(written, by_place).score, abs=1e-9)
        and found["bleu"] > 5
    )
    assert found["chrf"] == pytest.approx(chrf.corpus_score(written, by_place).score, abs=1e-9)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    scores = [scorer.score_multi(each, text) for text, each in zip(written, right, strict=True)]
    for ours, theirs in (
        ("rouge1", "rouge1"),
        ("rouge2", "rouge2"),
        ("rouge_l", "rougeL"),
        ("rouge_lsum", "rougeLsum"),
    ):
        assert found[ours] == pytest.approx(np.mean([score[theirs].fmeasure for score in scores]), abs=1e-9)
    assert found["rouge_lsum"] != found["rouge_l"], "lines are sentences"
    told = signatures(right)
    assert told == {"bleu": bleu.get_signature().format(), "chrf": chrf.get_signature().format()}
    assert told["bleu"].startswith(f"nrefs:{references}|")


def test_texts_may_have_more_or_fewer_that_are_right():
    found = text_metrics(["a b c d", "e f g h"], [["a b c d"], ["x", "e f g h"]])
    assert found["bleu"] == pytest.approx(100.0) and found["rouge2"] == 1.0
    assert signatures([["a"], ["b", "c"]])["chrf"].startswith("nrefs:var|")


def test_a_sample_counts_a_text_as_often_as_it_is_drawn():
    written, right = made(30, 1, seed=1)
    drawn = np.random.default_rng(0).integers(30, size=30)
    found = text_metrics([written[i] for i in drawn], [right[i] for i in drawn])
    expected = BLEU().corpus_score([written[i] for i in drawn], [[right[i][0] for i in drawn]]).score
    assert found["bleu"] == pytest.approx(expected, abs=1e-9)


def test_samples_of_texts_count_none_of_them_again(monkeypatch):
    written, right = made(40, 1, seed=2)
    before = text_metrics(written, right)

    def refuse(*arguments):
        raise AssertionError("a text is counted again")

    monkeypatch.setattr(BLEU, "_extract_corpus_statistics", refuse)
    monkeypatch.setattr(RougeScorer, "score_multi", refuse)
    for _ in range(3):
        assert text_metrics(written[::-1], right[::-1]) == pytest.approx(before)
