"""How near texts that were written are to those that are right: BLEU, chrF and ROUGE."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

_ROUGE = {"rouge1": "rouge1", "rouge2": "rouge2", "rouge_l": "rougeL", "rouge_lsum": "rougeLsum"}
METRICS = ("bleu", "chrf", *_ROUGE)
_KEPT = 1 << 17  # texts whose counts are kept, for samples of them


def text_metrics(written: Sequence[str], right: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the metrics of texts by name.

    Each text is counted once, and counts are added up: so metrics of a thousand samples cost hardly more than of one.

    BLEU and chrF are those of sacrebleu with its settings (Post 2018), from 0 to 100, of all texts together. ROUGE is
    the mean F1 of rouge-score with its stemmer (Lin 2004), from 0 to 1; for ROUGE-Lsum sentences are the lines of a
    text, and words are of Latin letters and digits: it says nothing of other scripts. Of several right texts
    sacrebleu's metrics count all, and ROUGE takes the nearest.

    Args:
        written: Texts.
        right: For each of them those that are right, at least one.
    """
    counts = [_counts(text, tuple(each)) for text, each in zip(written, right, strict=True)]
    found = {}
    for name, measure in zip(("bleu", "chrf"), _measures(), strict=True):
        total = np.sum([each[name] for each in counts], axis=0)
        found[name] = float(measure._compute_score_from_stats(total).score)
    return found | {name: float(np.mean([each[name] for each in counts])) for name in _ROUGE}


def signatures(right: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return sacrebleu's words for how BLEU and chrF are computed.

    Args:
        right: As in `text_metrics`.
    """
    sizes = sorted({len(each) for each in right})
    found = {}
    for name, measure in zip(("bleu", "chrf"), _measures(), strict=True):
        signature = measure.get_signature()
        signature.update("nrefs", sizes[0] if len(sizes) == 1 else "var")
        found[name] = str(signature.format())
    return found


@functools.lru_cache(maxsize=_KEPT)
def _counts(text: str, right: tuple[str, ...]) -> dict[str, Any]:
    """What a text adds to sacrebleu's counts, and its ROUGE scores."""
    found = {
        name: np.array(measure._extract_corpus_statistics([text], [[each] for each in right])[0], np.float64)
        for name, measure in zip(("bleu", "chrf"), _measures(), strict=True)
    }
    scores = _rouge().score_multi(list(right), text)
    return {**found, **{name: scores[theirs].fmeasure for name, theirs in _ROUGE.items()}}


@functools.cache
def _measures() -> tuple[Any, Any]:
    from sacrebleu.metrics import BLEU, CHRF

    return BLEU(), CHRF()


@functools.cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(_ROUGE.values()), use_stemmer=True)
