"""Find the answer to a question in its context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfllm.evaluation.answers import answer_scores, best_span, best_threshold
from tfllm.evaluation.predictions import Prediction
from tfllm.tasks.examples.asked_record import CONTEXT, asked_record
from tfllm.tasks.examples.asked_text import AskedText
from tfllm.tokenizers.repair import repair_text

Features = dict[str, tf.Tensor]

_FIRST, _LAST = 1, 2  # bits of the feature answer
_NOTHING = -1e30  # a logit that counts for nothing


class SpanQA:
    """Cross-entropy of the first and of the last token of an answer, in the mean of both (Devlin et al. 2019).

    A context that does not fit into a row is read in windows that share tokens; each learns the answer if it holds all
    of it, and else its first token, which says that nothing is there. The answer is the best span of all windows; where
    questions may have no answer, there is none if the first token of that window which sees least of one is likelier.

    Args:
        stride: Tokens that a window shares with the next.
        max_answer_tokens: Tokens of an answer, at most.
        unanswerable: Questions may have no answer.
        token_types: The model tells token types apart.
        tokenizer: Of no use here.
        loss_chunk_tokens: Of no use here.
    """

    coefficients: ClassVar[Mapping[str, float]] = {"loss": 1.0}
    aligned: ClassVar[Mapping[str, str]] = {}
    reads_records: ClassVar[bool] = True

    def __init__(
        self,
        *,
        stride: int,
        max_answer_tokens: int,
        unanswerable: bool = False,
        token_types: bool = True,
        tokenizer: Any = None,
        loss_chunk_tokens: int | None = None,
    ):
        del tokenizer, loss_chunk_tokens
        self.stride, self.max_answer_tokens = stride, max_answer_tokens
        self.unanswerable, self.token_types = unanswerable, token_types

    @property
    def of_examples(self) -> Sequence[str]:
        """The metrics that are made of predictions of examples."""
        more = ("answered_f1", "silence_accuracy", "best_f1") if self.unanswerable else ()
        return ("exact_match", "f1", *more)

    @property
    def metric_modes(self) -> Mapping[str, str]:
        """The metrics that say how good a model is, and whether the smallest, `min`, or the largest, `max`, is best."""
        return {**dict.fromkeys(self.of_examples, "max"), "loss": "min"}

    def examples_of(self, tokenizer: Any, *, seq_len: int, packing: bool) -> AskedText:
        """What tokenises questions and contexts."""
        return AskedText(
            tokenizer,
            seq_len=seq_len,
            packing=packing,
            stride=self.stride,
            token_types=self.token_types,
        )

    def features(self, rows: Features) -> Features:
        """The rows as they are."""
        return rows

    def window_weights(self, features: Features) -> tf.Tensor:
        """What each segment counts, float32 [B, S]; 0 where there is none."""
        return tf.where(features["example_ids"] >= 0, features["weights"], 0.0)

    def weights(self, features: Features) -> Features:
        """What all windows count together, float32 scalar."""
        return {"loss": tf.reduce_sum(self.window_weights(features))}

    def loss(self, model: Any, features: Features, outputs: Features) -> Features:
        """The sum of losses in nats, float32 scalar.

        Args:
            model: Not asked.
            features: `answer` and `segment_ids` int32 [B, T], `weights` float32 and `example_ids` int32 [B, S].
            outputs: `logits` float32 [B, T, 2].
        """
        segments = tf.range(1, tf.shape(features["example_ids"])[1] + 1)
        own = features["segment_ids"][:, None] == segments[None, :, None]  # [B, S, T]
        losses = []
        for index, bit in enumerate((_FIRST, _LAST)):
            logits = outputs["logits"][:, None, :, index]  # [B, 1, T]
            right = own & (features["answer"][:, None] & bit > 0)
            total = tf.reduce_logsumexp(tf.where(own, logits, _NOTHING), axis=-1)
            losses.append(total - tf.reduce_sum(tf.where(right, logits, 0.0), axis=-1))
        # A segment that is not there has weight 0, and finite losses.
        return {"loss": tf.reduce_sum((losses[0] + losses[1]) / 2.0 * self.window_weights(features))}

    def evaluation_sums(self, model: Any, features: Features, outputs: Features) -> Features:
        """`loss` and `weight`, float32 scalars: all else is computed of predictions."""
        return {
            "loss": self.loss(model, features, outputs)["loss"],
            "weight": self.weights(features)["loss"],
        }

    def predictions(self, model: Any, features: Features, outputs: Features) -> dict[str, Features]:
        """How likely each token is the first and the last of an answer, and where it stands in the context."""
        start, end = tf.unstack(outputs["logits"], axis=-1)
        return {
            "tokens": {"start": start, "end": end, "begins": features["begins"], "ends": features["ends"]}
        }

    def joined(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """The answer to each question: `answer`, its characters `place` int64 [2], its `score`, by how much no answer
        is likelier, `null_odds`, and how good it is, and its absence: `scores` float64 [2, 2], each exact and F1."""
        return [
            self._answered(number, list(windows))
            for number, windows in groupby(predictions, key=lambda each: each.number)
        ]

    def evaluation_metrics(
        self, sums: Mapping[str, float], predictions: Sequence[Prediction] = ()
    ) -> dict[str, float]:
        """`loss`, `exact_match` and `f1` as SQuAD counts them, between 0 and 1, and `questions`.

        Where questions may have no answer also `answered_f1`, of those that have one; `silence_accuracy`, of the
        others; and `best_f1`, with the threshold on `null_odds` where it is reached, `best_null_odds`.
        """
        scores = np.array([each.values["scores"] for each in predictions], np.float64).reshape([-1, 2, 2])
        odds = np.array([each.values["null_odds"] for each in predictions], np.float64)
        silent = odds > 0 if self.unanswerable else np.zeros(len(odds), bool)
        said = np.where(silent[:, None], scores[:, 1], scores[:, 0])
        found = {"exact_match": _mean(said[:, 0]), "f1": _mean(said[:, 1])}
        if self.unanswerable:
            has = scores[:, 1, 0] == 0.0  # saying nothing is wrong
            found |= {"answered_f1": _mean(said[has, 1]), "silence_accuracy": _mean(said[~has, 1])}
            threshold, best = best_threshold(odds, scores[:, 0, 1], scores[:, 1, 1])
            found |= {"best_f1": best, "best_null_odds": threshold}
        loss = sums["loss"] / sums["weight"] if sums["weight"] else float("nan")
        return {"loss": loss, **found, "questions": float(len(predictions))}

    def _answered(self, number: int, windows: Sequence[Prediction]) -> Prediction:
        first, last, score, null = answer_of(
            [each.values for each in windows], max_answer_tokens=self.max_answer_tokens
        )
        record = windows[0].record
        assert record is not None
        meant = asked_record(record).texts
        answer = repair_text(record.text(CONTEXT))[first:last]
        silent = self.unanswerable and null > score
        values = {
            "answer": np.array("" if silent else answer),
            "place": np.array([0, 0] if silent else [first, last]),
            "score": np.array(score),
            "null_odds": np.array(null - score),
            "scores": np.array([answer_scores(answer, meant), answer_scores("", meant)]),
        }
        return Prediction(number, values, record)


def answer_of(
    windows: Sequence[Mapping[str, np.ndarray]], *, max_answer_tokens: int
) -> tuple[int, int, float, float]:
    """Return the best answer over all windows: its first character, the one behind its last, its score, and that of
    none.

    Args:
        windows: Of each `start`, `end` float [n], and `begins`, `ends` int32 [n] (see `ContextWindow`); the first
            token of each says that nothing is there, and where it says so least is the score of none.
        max_answer_tokens: Tokens of an answer, at most.
    """
    best, place, null = -np.inf, (0, 0), np.inf
    for values in windows:
        start, end, begins = values["start"], values["end"], values["begins"]
        null = min(null, float(start[0]) + float(end[0]))
        first, last, score = best_span(start, end, begins > 0, max_answer_tokens)
        if score > best:
            best, place = score, (int(begins[first]) - 1, int(values["ends"][last]))
    return *place, best, null


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
