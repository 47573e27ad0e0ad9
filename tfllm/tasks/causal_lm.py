"""Predict each next token."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.evaluation.metrics import bits_per_byte, perplexity
from tfllm.tasks.vocabulary_loss import cross_entropy_sum


class CausalLM:
    """Next-token cross-entropy.

    Args:
        token_byte_lengths: int32 [V], text bytes each token stands for, 0 for special tokens; None
            leaves `bits_per_byte` out.
        loss_chunk_tokens: Tokens whose logits exist at once; None is as many as fit in 64 MB.
    """

    def __init__(self, *, token_byte_lengths: np.ndarray | None = None, loss_chunk_tokens: int | None = None):
        self.loss_chunk_tokens = loss_chunk_tokens
        self._byte_lengths = None
        if token_byte_lengths is not None:
            self._byte_lengths = np.asarray(token_byte_lengths, np.float32)

    def loss(
        self, model: Any, features: dict[str, tf.Tensor], outputs: dict[str, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The loss as two sums, to be divided once by the global weight.

        Args:
            model: The model, for its `logits`.
            features: `targets` int32 [B, T] and `loss_weights` float32 [B, T].
            outputs: What the model returned for `features`; only `hidden_states` are read.

        Returns:
            Sum of weighted losses in nats, and sum of weights; float32 scalars.
        """
        return self._sums(model, features, outputs, differentiable=True)

    def evaluation_sums(
        self, model: Any, features: dict[str, tf.Tensor], outputs: dict[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """Sums over a batch, float32 scalars: `loss`, `weight` and, where known, `bytes`."""
        loss_sum, weight_sum = self._sums(model, features, outputs, differentiable=False)
        sums = {"loss": loss_sum, "weight": weight_sum}
        if self._byte_lengths is not None:
            lengths = tf.gather(tf.constant(self._byte_lengths), features["targets"])
            sums["bytes"] = tf.reduce_sum(lengths * features["loss_weights"])
        return sums

    @property
    def metric_modes(self) -> dict[str, str]:
        """The metrics that say how good a model is, and whether the smallest, `min`, or the largest, `max`, is best."""
        modes = {"loss": "min", "perplexity": "min"}
        return modes if self._byte_lengths is None else {**modes, "bits_per_byte": "min"}

    def evaluation_metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """Metrics of a whole split: `loss` (nats a token), `perplexity`, `tokens`, `bits_per_byte`."""
        loss = sums["loss"] / sums["weight"]
        metrics = {"loss": loss, "perplexity": perplexity(loss), "tokens": sums["weight"]}
        if "bytes" in sums:
            metrics["bits_per_byte"] = bits_per_byte(sums["loss"], sums["bytes"])
        return metrics

    def _sums(
        self, model: Any, features: dict[str, tf.Tensor], outputs: dict[str, tf.Tensor], differentiable: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        weights = features["loss_weights"]
        loss = cross_entropy_sum(
            model.logits,
            outputs["hidden_states"],
            features["targets"],
            weights,
            chunk_tokens=self.loss_chunk_tokens,
            differentiable=differentiable,
        )
        return loss, tf.reduce_sum(weights)
