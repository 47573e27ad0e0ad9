"""Prefer one answer to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfllm.evaluation.predictions import Prediction
from tfllm.tasks.errors import TaskError
from tfllm.tasks.examples.preference_pairs import PreferencePairs
from tfllm.tasks.vocabulary_loss import token_log_probs
from tfllm.tokenizers.chat import encode_prompt

Features = dict[str, tf.Tensor]

BETAS = {"dpo": 0.1, "ipo": 0.1, "simpo": 2.0, "orpo": 0.1}  # those of the papers


class Preference:
    """Losses that compare the log-probabilities of two answers.

    | loss | of a pair | source |
    |---|---|---|
    | dpo | -log σ(β h), h = (log π(c) - log π₀(c)) - (log π(r) - log π₀(r)) | Rafailov et al. 2023 |
    | ipo | (h - 1 / 2β)², of means over tokens, as TRL has it | Azar et al. 2023 |
    | simpo | -log σ(β (m(c) - m(r)) - margin), m the mean over tokens | Meng et al. 2024 |
    | orpo | cross-entropy of the chosen tokens, and β · -log σ(log odds(c) - log odds(r)) | Hong et al. 2024 |

    π₀ is the model at the start, without dropout. Every loss is a sum over pairs, but for the cross-entropy, which is
    one over tokens.

    Args:
        tokenizer: A tokenizer with a chat template.
        loss: dpo, ipo, simpo or orpo.
        beta: β; None is that of the loss' paper.
        label_smoothing: Of dpo: share of pairs that are taken to be the wrong way round.
        margin: Of simpo.
        on_too_long: As in `PreferencePairs`; None cuts the oldest turns.
        loss_chunk_tokens: As in `CausalLM`.

    Raises:
        TaskError: the tokenizer has no chat template.
    """

    aligned: ClassVar[Mapping[str, str]] = {}
    metric_modes: ClassVar[Mapping[str, str]] = {
        "reward_accuracy": "max",
        "reward_margin": "max",
        "loss": "min",
    }
    of_examples: ClassVar[Sequence[str]] = ("reward_accuracy", "reward_margin")

    def __init__(
        self,
        *,
        tokenizer: Any,
        loss: str = "dpo",
        beta: float | None = None,
        label_smoothing: float = 0.0,
        margin: float = 1.0,
        on_too_long: str | None = None,
        loss_chunk_tokens: int | None = None,
    ):
        if not tokenizer.chat_template:
            raise TaskError(
                "task.type=preference needs a chat template, and this tokenizer has none; write the path of one in"
                " Jinja as task.template_file, or take a checkpoint that was tuned for chat"
            )
        self.tokenizer, self.kind = tokenizer, loss
        self.beta = beta or BETAS[loss]
        self.label_smoothing, self.margin = label_smoothing, margin
        self.on_too_long = on_too_long or "cut_oldest_turns"
        self.loss_chunk_tokens = loss_chunk_tokens
        self.needs_reference = loss in ("dpo", "ipo")
        self.coefficients: Mapping[str, float] = (
            {"cross_entropy": 1.0, "odds": self.beta} if loss == "orpo" else {"loss": 1.0}
        )
        self._reference: Any = None

    def examples_of(self, tokenizer: Any, *, seq_len: int, packing: bool) -> PreferencePairs:
        """What renders and tokenises the pairs."""
        return PreferencePairs(tokenizer, seq_len=seq_len, packing=packing, on_too_long=self.on_too_long)

    def set_reference(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Gives what the model at the start says of each segment.

        Args:
            keys: int64 [N], of `segment_keys`.
            values: float32 [N], log-probabilities.
        """
        values_of = tf.lookup.KeyValueTensorInitializer(
            tf.constant(keys, tf.int64), tf.constant(values, tf.float32)
        )
        self._reference = tf.lookup.StaticHashTable(values_of, float("nan"))

    def features(self, rows: Features) -> Features:
        """With `reference` float32 [B, S], where the loss compares with it: not a number where it is not known."""
        if not self.needs_reference or self._reference is None:
            return rows
        reference = self._reference.lookup(segment_keys(rows))
        return {**rows, "reference": tf.where(rows["example_ids"] >= 0, reference, 0.0)}

    def weights(self, features: Features) -> Features:
        """The sum of the pairs' weights; and of orpo that of the chosen tokens', float32 scalars."""
        weights = self._pair_weights(features)
        if self.kind != "orpo":
            return {"loss": tf.reduce_sum(weights)}
        chosen = _pairs(_of_segments(features, tf.cast(features["learned"], tf.float32)))[..., 0]
        return {"cross_entropy": tf.reduce_sum(chosen * weights), "odds": tf.reduce_sum(weights)}

    def loss(self, model: Any, features: Features, outputs: Features) -> Features:
        """The sum of each term, float32 scalars."""
        sums, counts = self.log_probs(model, features, outputs)
        weights = self._pair_weights(features)
        losses = self._losses(sums, counts, features)
        if self.kind != "orpo":
            return {"loss": tf.reduce_sum(losses * weights)}
        chosen = -_pairs(sums)[..., 0]
        return {
            "cross_entropy": tf.reduce_sum(chosen * weights),
            "odds": tf.reduce_sum(losses * weights),
        }

    def log_probs(self, model: Any, features: Features, outputs: Features) -> tuple[tf.Tensor, tf.Tensor]:
        """Of each segment the log-probability of its answer, and its tokens, float32 [B, S]."""
        found = token_log_probs(
            model.logits, outputs["hidden_states"], features["targets"], chunk_tokens=self.loss_chunk_tokens
        )
        learned = tf.cast(features["learned"], tf.float32)
        return _of_segments(features, found * learned), _of_segments(features, learned)

    def evaluation_sums(self, model: Any, features: Features, outputs: Features) -> Features:
        """Sums over a batch, float32 scalars: of each term, and its weight."""
        losses, weights = self.loss(model, features, outputs), self.weights(features)
        return {
            **{f"sum/{name}": value for name, value in losses.items()},
            **{f"weight/{name}": value for name, value in weights.items()},
        }

    def predictions(self, model: Any, features: Features, outputs: Features) -> dict[str, Features]:
        """Of each segment its log-probability, that of the start, and its tokens."""
        sums, counts = self.log_probs(model, features, outputs)
        reference = features.get("reference", tf.zeros_like(sums))
        return {"segments": {"log_prob": sums, "reference": reference, "tokens": counts}}

    def joined(self, predictions: Sequence[Prediction]) -> Sequence[Prediction]:
        """Of each record, chosen and rejected: float32 [2] by name."""
        pairs: dict[int, list[Prediction]] = {}
        for each in predictions:
            pairs.setdefault(each.number, []).append(each)
        return [
            Prediction(
                number,
                {name: np.array([each.values[name] for each in pair]) for name in pair[0].values},
                pair[0].record,
            )
            for number, pair in pairs.items()
        ]

    def evaluation_metrics(
        self, sums: Mapping[str, float], predictions: Sequence[Prediction] = ()
    ) -> dict[str, float]:
        """`loss`, `reward_accuracy`, `reward_margin`, and the log-probability of a chosen and of a rejected answer."""
        terms = {name: sums[f"sum/{name}"] / sums[f"weight/{name}"] for name in self.coefficients}
        metrics = {"loss": sum(self.coefficients[name] * value for name, value in terms.items())}
        if len(terms) > 1:
            metrics |= terms
        if not predictions:
            return metrics
        found, reference, tokens = (
            np.array([each.values[name] for each in predictions], np.float64)
            for name in ("log_prob", "reference", "tokens")
        )
        rewards = self._rewards(found, reference, tokens)
        margins = rewards[:, 0] - rewards[:, 1]
        return {
            **metrics,
            "reward_accuracy": float(np.mean((margins > 0) + 0.5 * (margins == 0))),
            "reward_margin": float(np.mean(margins)),
            "chosen_log_prob": float(np.mean(found[:, 0])),
            "rejected_log_prob": float(np.mean(found[:, 1])),
            "pairs": float(len(margins)),
        }

    def prompt_ids(self, prompt: str) -> list[int]:
        """The ids that an answer to what a user says is written to."""
        return encode_prompt(self.tokenizer, [{"role": "user", "content": prompt}])

    def _rewards(self, found: np.ndarray, reference: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """What the loss takes an answer to be worth."""
        if self.needs_reference:
            return self.beta * (found - reference)
        return self.beta * found / np.maximum(tokens, 1.0)

    def _pair_weights(self, features: Features) -> tf.Tensor:
        there = tf.where(features["example_ids"] >= 0, features["weights"], 0.0)
        return _pairs(there)[..., 0]  # [B, S / 2]

    def _losses(self, sums: tf.Tensor, counts: tf.Tensor, features: Features) -> tf.Tensor:
        """Of each pair, float32 [B, S / 2]; of what is no pair anything finite."""
        means = tf.math.divide_no_nan(sums, counts)
        if self.kind == "simpo":
            margins = self.beta * _difference(means) - self.margin
            return -tf.math.log_sigmoid(margins)
        if self.kind == "orpo":
            # Where there is no pair the mean is 0, whose odds are infinite.
            means = tf.where(counts > 0, means, -1.0)
            odds = means - tf.math.log(-tf.math.expm1(tf.minimum(means, -1e-7)))
            return -tf.math.log_sigmoid(_difference(odds))
        reference = features["reference"]
        if self.kind == "ipo":
            reached = _difference(means - tf.math.divide_no_nan(reference, counts))
            return (reached - 1.0 / (2.0 * self.beta)) ** 2
        reached = self.beta * _difference(sums - reference)
        smoothing = self.label_smoothing
        return -(1.0 - smoothing) * tf.math.log_sigmoid(reached) - smoothing * tf.math.log_sigmoid(-reached)


def segment_keys(rows: Features) -> tf.Tensor:
    """What tells segments apart, int64 [B, S]."""
    low, high = (tf.cast(rows[f"keys_{name}"], tf.int64) for name in ("low", "high"))
    return high * (1 << 32) + (low & 0xFFFFFFFF)


def _of_segments(features: Features, values: tf.Tensor) -> tf.Tensor:
    """Sums of float32 [B, T] over the tokens of each segment, [B, S]."""
    count = features["example_ids"].shape[1]
    held = tf.one_hot(features["segment_ids"] - 1, count, dtype=tf.float32)  # of padding, -1, none
    return tf.einsum("bt,bts->bs", values, held)


def _pairs(values: tf.Tensor) -> tf.Tensor:
    """[B, S] -> [B, S / 2, 2], chosen and rejected."""
    return tf.reshape(values, [-1, values.shape[1] // 2, 2])


def _difference(values: tf.Tensor) -> tf.Tensor:
    pairs = _pairs(values)
    return pairs[..., 0] - pairs[..., 1]
