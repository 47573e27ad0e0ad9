"""What tasks have in common that learn tokens which a decoder writes, each with a weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from tfllm.evaluation.metrics import token_metrics
from tfllm.evaluation.predictions import Prediction
from tfllm.tasks.vocabulary_loss import cross_entropy_sum, evaluated_sums

Features = dict[str, tf.Tensor]


def weights_of_tokens(rows: Features, segment_ids: tf.Tensor) -> tf.Tensor:
    """Return the weight of its record for each token, float32 [B, T]; 0 for padding.

    Args:
        rows: `weights` and `example_ids` of segments, [B, S].
        segment_ids: int32 [B, T], from 1, 0 for padding.
    """
    weights = tf.pad(tf.where(rows["example_ids"] >= 0, rows["weights"], 0.0), [[0, 0], [1, 0]])
    return tf.gather(weights, segment_ids, batch_dims=1)


def with_learned_weights(rows: Features) -> Features:
    """Return the rows of one side with `loss_weights`, the weight of its record for each token that is learned."""
    weights = weights_of_tokens(rows, rows["segment_ids"])
    return {**rows, "loss_weights": weights * tf.cast(rows["learned"], tf.float32)}


class TargetTokens:
    """Cross-entropy of `targets` int32 [B, T], weighed by `loss_weights` float32 [B, T].

    Args:
        loss_chunk_tokens: As in `CausalLM`.
        label_smoothing: Share of each target that goes to all tokens alike, in the loss that is trained.
    """

    coefficients: ClassVar[Mapping[str, float]] = {"loss": 1.0}
    metric_modes: ClassVar[Mapping[str, str]] = {"loss": "min", "perplexity": "min", "token_accuracy": "max"}

    def __init__(self, *, loss_chunk_tokens: int | None = None, label_smoothing: float = 0.0):
        self.loss_chunk_tokens, self.label_smoothing = loss_chunk_tokens, label_smoothing

    def weights(self, features: Features) -> Features:
        """The sum of `loss_weights`, float32 scalar."""
        return {"loss": tf.reduce_sum(features["loss_weights"])}

    def loss(self, model: Any, features: Features, outputs: Features) -> Features:
        """The sum of losses in nats, float32 scalar.

        Args:
            model: The model, for its `logits`.
            features: As `features` makes them.
            outputs: What the model returned for them; only `hidden_states` are read.
        """
        loss = cross_entropy_sum(
            model.logits,
            outputs["hidden_states"],
            features["targets"],
            features["loss_weights"],
            chunk_tokens=self.loss_chunk_tokens,
            label_smoothing=self.label_smoothing,
        )
        return {"loss": loss}

    def evaluation_sums(self, model: Any, features: Features, outputs: Features) -> Features:
        """Sums over a batch, float32 scalars: `loss` (not smoothed), `weight`, and `right`, the likeliest tokens."""
        loss, right = evaluated_sums(
            model.logits,
            outputs["hidden_states"],
            features["targets"],
            features["loss_weights"],
            chunk_tokens=self.loss_chunk_tokens,
        )
        return {"loss": loss, "weight": tf.reduce_sum(features["loss_weights"]), "right": right}

    def predictions(self, model: Any, features: Features, outputs: Features) -> dict[str, Features]:
        """None: sums say all that one pass over the targets can say."""
        return {}

    def joined(self, predictions: Sequence[Prediction]) -> Sequence[Prediction]:
        """As they are."""
        return predictions

    def evaluation_metrics(
        self, sums: Mapping[str, float], predictions: Sequence[Prediction] = ()
    ) -> dict[str, float]:
        """Metrics of a whole split: `loss` (nats a token written), `perplexity`, `token_accuracy`, `tokens`."""
        return token_metrics(sums)
