"""What tasks have in common that read a label off the vector of a text, or of two."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from tfllm.evaluation.predictions import Prediction
from tfllm.tasks.examples.labelled_text import LabelledText, text_pieces
from tfllm.tasks.examples.labels import Labels

Features = dict[str, tf.Tensor]


class LabelledTextTask(ABC):
    """One segment, one label: rows, sums, and what a loss is divided by.

    A subclass says `loss`, `predictions`, and `metrics_of` of predictions.

    Args:
        labels: What the labels are.
        pairs: A record is two texts.
        token_types: The model tells token types apart; else the separator alone stands between two texts.
        template: A text around `{text}`, and of pairs `{text_pair}`; None is the texts alone.
    """

    coefficients: ClassVar[Mapping[str, float]] = {"loss": 1.0}
    aligned: ClassVar[Mapping[str, str]] = {}

    def __init__(self, labels: Labels, *, pairs: bool, token_types: bool, template: str | None = None):
        self.labels, self.pairs, self.token_types, self.template = labels, pairs, token_types, template

    def examples_of(self, tokenizer: Any, *, seq_len: int, packing: bool) -> LabelledText:
        """What tokenises the texts of a record."""
        return LabelledText(
            tokenizer,
            seq_len=seq_len,
            packing=packing,
            labels=self.labels,
            pairs=self.pairs,
            token_types=self.token_types,
            template=text_pieces(self.template, pairs=self.pairs),
        )

    def features(self, rows: Features) -> Features:
        """The rows as they are."""
        return rows

    def weights(self, features: Features) -> Features:
        """What all examples count together, float32 scalar."""
        return {"loss": tf.reduce_sum(self.example_weights(features))}

    def example_weights(self, features: Features) -> tf.Tensor:
        """What each segment counts, float32 [B, S]; 0 where there is none."""
        return tf.where(features["example_ids"] >= 0, features["weights"], 0.0)

    @abstractmethod
    def loss(self, model: Any, features: Features, outputs: Features) -> Features:
        """The sum of the losses, float32 scalar."""

    def evaluation_sums(self, model: Any, features: Features, outputs: Features) -> Features:
        """`loss` and `weight`, float32 scalars: all else is computed of predictions."""
        return {
            "loss": self.loss(model, features, outputs)["loss"],
            "weight": self.weights(features)["loss"],
        }

    def joined(self, predictions: Sequence[Prediction]) -> Sequence[Prediction]:
        """As they are."""
        return predictions

    def evaluation_metrics(
        self, sums: Mapping[str, float], predictions: Sequence[Prediction] = ()
    ) -> dict[str, float]:
        """`loss`, what `metrics_of` finds, where every example counts 1, and `examples`."""
        return {
            "loss": sums["loss"] / sums["weight"] if sums["weight"] else float("nan"),
            **self.metrics_of(predictions),
            "examples": float(len(predictions)),
        }

    @abstractmethod
    def metrics_of(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """What is computed of predictions alone."""
