"""Predict each next token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfllm.data.next_tokens import NextTokens
from tfllm.data.pipeline import add_loss_weights
from tfllm.evaluation.metrics import bits_per_byte, token_metrics
from tfllm.evaluation.predictions import Prediction
from tfllm.tasks.vocabulary_loss import cross_entropy_sum


def causal_lm(*, tokenizer: Any, loss_chunk_tokens: int | None = None) -> CausalLM:
    """The task for a tokenizer, which says how many bytes its tokens stand for."""
    return CausalLM(token_byte_lengths=tokenizer.token_byte_lengths(), loss_chunk_tokens=loss_chunk_tokens)


class CausalLM:
    """Next-token cross-entropy.

    Args:
        token_byte_lengths: int32 [V], text bytes each token stands for, 0 for special tokens; None
            leaves `bits_per_byte` out.
        loss_chunk_tokens: Tokens whose logits exist at once; None is as many as fit in 64 MB.
    """

    coefficients: ClassVar[Mapping[str, float]] = {"loss": 1.0}
    aligned: ClassVar[Mapping[str, str]] = {"loss_weights": ""}

    def __init__(self, *, token_byte_lengths: np.ndarray | None = None, loss_chunk_tokens: int | None = None):
        self.loss_chunk_tokens = loss_chunk_tokens
        self._byte_lengths = None
        if token_byte_lengths is not None:
            self._byte_lengths = np.asarray(token_byte_lengths, np.float32)

    def examples_of(self, tokenizer: Any, *, seq_len: int, packing: bool) -> NextTokens:
        """What tokenises documents, to be cut into rows."""
        return NextTokens(tokenizer, seq_len=seq_len, packing=packing)

    def features(self, rows: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Every token counts 1."""
        return add_loss_weights(rows)

    def weights(self, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The sum of `loss_weights`, float32 scalar, that the loss is divided by, once."""
        return {"loss": tf.reduce_sum(features["loss_weights"])}

    def loss(
        self, model: Any, features: dict[str, tf.Tensor], outputs: dict[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """The sum of weighted losses in nats, float32 scalar.

        Args:
            model: The model, for its `logits`.
            features: `targets` int32 [B, T] and `loss_weights` float32 [B, T].
            outputs: What the model returned for `features`; only `hidden_states` are read.
        """
        return {"loss": self._loss_sum(model, features, outputs, differentiable=True)}

    def evaluation_sums(
        self, model: Any, features: dict[str, tf.Tensor], outputs: dict[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """Sums over a batch, float32 scalars: `loss`, `weight` and, where known, `bytes`."""
        loss = self._loss_sum(model, features, outputs, differentiable=False)
        sums = {"loss": loss, "weight": tf.reduce_sum(features["loss_weights"])}
        if self._byte_lengths is not None:
            lengths = tf.gather(tf.constant(self._byte_lengths), features["targets"])
            sums["bytes"] = tf.reduce_sum(lengths * features["loss_weights"])
        return sums

    @property
    def metric_modes(self) -> dict[str, str]:
        """The metrics that say how good a model is, and whether the smallest, `min`, or the largest, `max`, is best."""
        modes = {"loss": "min", "perplexity": "min"}
        return modes if self._byte_lengths is None else {**modes, "bits_per_byte": "min"}

    def predictions(
        self, model: Any, features: dict[str, tf.Tensor], outputs: dict[str, tf.Tensor]
    ) -> dict[str, dict[str, tf.Tensor]]:
        """None: sums say all."""
        return {}

    def joined(self, predictions: Sequence[Prediction]) -> Sequence[Prediction]:
        """As they are."""
        return predictions

    def evaluation_metrics(
        self, sums: Mapping[str, float], predictions: Sequence[Prediction] = ()
    ) -> dict[str, float]:
        """Metrics of a whole split: `loss` (nats a token), `perplexity`, `tokens`, `bits_per_byte`."""
        metrics = token_metrics(sums)
        if "bytes" in sums:
            metrics["bits_per_byte"] = bits_per_byte(sums["loss"], sums["bytes"])
        return metrics

    def _loss_sum(
        self, model: Any, features: dict[str, tf.Tensor], outputs: dict[str, tf.Tensor], differentiable: bool
    ) -> tf.Tensor:
        return cross_entropy_sum(
            model.logits,
            outputs["hidden_states"],
            features["targets"],
            features["loss_weights"],
            chunk_tokens=self.loss_chunk_tokens,
            differentiable=differentiable,
        )
