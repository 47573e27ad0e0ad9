"""Bring texts that belong together near, and others far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfllm.evaluation.predictions import Prediction
from tfllm.evaluation.retrieval import retrieval_metrics
from tfllm.layers.pooling import segment_vectors
from tfllm.tasks.examples.text_pairs import ANCHOR, NEGATIVE, POSITIVE, TextPairs

Features = dict[str, tf.Tensor]

_NEVER = -1e9  # the score of what is no candidate


class Contrastive:
    """Cross-entropy of telling an anchor's positive among all positives and hard negatives of the global batch.

    Vectors have the length 1, and their products are divided by the temperature (InfoNCE; van den Oord et al. 2018).
    With `both` directions a positive's anchor is told among all anchors too, and the loss is the mean of both. With
    `twins` a text is its own positive, and dropout makes the difference (SimCSE; Gao et al. 2021).

    Args:
        tokenizer: The tokenizer.
        temperature: What products are divided by.
        directions: `both`, or `anchor_to_positive`.
        pooling: How a text's vector is made of those of its tokens: mean, first or last.
        mask_duplicates: A text equal to the anchor or its positive is no negative, nor is another positive of an equal
            anchor.
        twins: Each text is its own positive.
        negatives: Hard negatives of each example.
        loss_chunk_tokens: Of no use here.
    """

    coefficients: ClassVar[Mapping[str, float]] = {"loss": 1.0}
    aligned: ClassVar[Mapping[str, str]] = {}
    metric_modes: ClassVar[Mapping[str, str]] = {
        "recall_at_1": "max",
        "recall_at_10": "max",
        "mrr": "max",
        "loss": "min",
    }
    compared: ClassVar[Sequence[str]] = ("roles", "text_keys")

    def __init__(
        self,
        *,
        tokenizer: Any,
        temperature: float = 0.05,
        directions: str = "both",
        pooling: str = "mean",
        mask_duplicates: bool = True,
        twins: bool = False,
        negatives: int = 0,
        loss_chunk_tokens: int | None = None,
    ):
        del tokenizer, loss_chunk_tokens
        self.temperature, self.directions, self.pooling = temperature, directions, pooling
        self.mask_duplicates, self.twins, self.negatives = mask_duplicates, twins, negatives

    def examples_of(self, tokenizer: Any, *, seq_len: int, packing: bool) -> TextPairs:
        """What tokenises the texts of a record."""
        return TextPairs(
            tokenizer, seq_len=seq_len, packing=packing, twins=self.twins, num_negatives=self.negatives
        )

    def features(self, rows: Features) -> Features:
        """The rows as they are."""
        return rows

    def weights(self, features: Features) -> Features:
        """How many anchors there are, float32 scalar."""
        return {"loss": tf.reduce_sum(tf.cast(features["roles"] == ANCHOR, tf.float32))}

    def vectors(self, model: Any, features: Features, outputs: Features) -> Features:
        """The vector of each segment, float32 [B, S, D], of length 1; zeros where there is none."""
        states = tf.cast(outputs["hidden_states"], tf.float32)
        count = features["roles"].shape[1]
        pooled = segment_vectors(states, features["segment_ids"], count, self.pooling)
        return {"vectors": tf.math.l2_normalize(pooled, axis=-1, epsilon=1e-24)}

    def loss_of_vectors(self, vectors: Features, features: Features) -> Features:
        """The sum of losses of all anchors in nats, float32 scalar.

        Args:
            vectors: `vectors` float32 [B, S, D].
            features: `roles` and `text_keys` int32 [B, S].
        """
        every = tf.reshape(vectors["vectors"], [-1, vectors["vectors"].shape[-1]])
        roles, keys = (tf.reshape(features[name], [-1]) for name in self.compared)
        scores = tf.matmul(every, every, transpose_b=True) / self.temperature
        forward = self._loss(scores, roles, keys, ANCHOR, POSITIVE)
        if self.directions == "anchor_to_positive":
            return {"loss": forward}
        return {"loss": (forward + self._loss(scores, roles, keys, POSITIVE, ANCHOR)) / 2.0}

    def evaluation_sums(self, model: Any, features: Features, outputs: Features) -> Features:
        """How many anchors there are, float32 scalar: all else is computed of predictions."""
        return {"pairs": self.weights(features)["loss"]}

    def predictions(self, model: Any, features: Features, outputs: Features) -> dict[str, Features]:
        """The vector, role and key of each segment."""
        vectors = self.vectors(model, features, outputs)["vectors"]
        return {"segments": {"vector": vectors, "role": features["roles"], "key": features["text_keys"]}}

    def joined(self, predictions: Sequence[Prediction]) -> Sequence[Prediction]:
        """As they are."""
        return predictions

    def evaluation_metrics(
        self, sums: Mapping[str, float], predictions: Sequence[Prediction] = ()
    ) -> dict[str, float]:
        """`recall_at_1`, `recall_at_10`, `mrr`, `loss` and `pairs`, each anchor's among all candidates of the split."""
        vectors, roles, keys = (
            np.array([each.values[name] for each in predictions]) for name in ("vector", "role", "key")
        )
        metrics = retrieval_metrics(
            vectors[roles == ANCHOR],
            vectors[roles == POSITIVE],
            vectors[roles == NEGATIVE],
            keys=(keys[roles == ANCHOR], keys[roles == POSITIVE], keys[roles == NEGATIVE]),
            temperature=self.temperature,
        )
        return {**metrics, "pairs": sums["pairs"]}

    def _loss(
        self, scores: tf.Tensor, roles: tf.Tensor, keys: tf.Tensor, asks: int, answers: int
    ) -> tf.Tensor:
        """The summed loss of segments of one role that ask for the one of the other that is next to them."""
        behind = answers - asks  # 1 where positives are told, -1 where anchors are
        paired = roles == answers
        candidate = paired | (roles == NEGATIVE) if answers == POSITIVE else paired
        place = tf.range(tf.shape(keys)[0])
        own = place[None] == place[:, None] + behind
        allowed = tf.broadcast_to(candidate[None], tf.shape(scores))
        if self.mask_duplicates:
            answer = tf.roll(keys, -behind, 0)[:, None]
            allowed &= (keys[None] != keys[:, None]) & (keys[None] != answer)
            # What belongs to an equal text: an anchor may have several positives, and a positive several anchors.
            belongs = (tf.roll(keys, behind, 0)[None] == keys[:, None]) & paired[None]
            allowed &= ~belongs
        masked = tf.where(allowed | own, scores, _NEVER)
        losses = tf.reduce_logsumexp(masked, axis=1) - tf.reduce_sum(tf.where(own, scores, 0.0), axis=1)
        return tf.reduce_sum(tf.where(roles == asks, losses, 0.0))
