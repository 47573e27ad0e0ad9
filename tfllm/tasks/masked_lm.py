"""Predict hidden tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfllm.evaluation.metrics import perplexity
from tfllm.evaluation.predictions import Prediction
from tfllm.tasks.errors import TaskError
from tfllm.tasks.examples.masked_lm import MaskedLMExamples
from tfllm.tasks.masking import mask
from tfllm.tasks.vocabulary_loss import cross_entropy_sum, evaluated_sums

Features = dict[str, tf.Tensor]


class MaskedLM:
    """Cross-entropy of tokens that were hidden, from what stands around them (Devlin et al. 2019).

    Which tokens are hidden is drawn anew wherever a row comes in the sequence of training, from its place in it; in
    evaluation it is always the same. Only what was hidden is projected onto the vocabulary.

    Args:
        tokenizer: The tokenizer, which has a mask token.
        mask_rate: Share of the tokens that are hidden.
        mask_split: Of these, the shares that become the mask token, a token drawn from all, and stay what they are.
        whole_words: Hides all tokens of a word or none.
        loss_chunk_tokens: As in `CausalLM`.

    Raises:
        TaskError: when the tokenizer has no mask token.
    """

    coefficients: ClassVar[Mapping[str, float]] = {"loss": 1.0}
    aligned: ClassVar[Mapping[str, str]] = {}
    metric_modes: ClassVar[Mapping[str, str]] = {"loss": "min", "perplexity": "min", "masked_accuracy": "max"}

    def __init__(
        self,
        *,
        tokenizer: Any,
        mask_rate: float = 0.15,
        mask_split: Sequence[float] = (0.8, 0.1, 0.1),
        whole_words: bool = False,
        loss_chunk_tokens: int | None = None,
    ):
        if tokenizer.mask_id is None:
            raise TaskError(
                "task.type=masked_lm needs a tokenizer with a mask token, and this one has none; take"
                " tokenizer.type byte_bpe, which learns one, or that of a BERT"
            )
        self.mask_rate, self.mask_split, self.whole_words = mask_rate, tuple(mask_split), whole_words
        self.mask_id = int(tokenizer.mask_id)
        ordinary = set(range(tokenizer.vocab_size)) - set(tokenizer.special_ids)
        self.random_ids = np.array(sorted(ordinary), np.int32)
        self.loss_chunk_tokens = loss_chunk_tokens

    def examples_of(self, tokenizer: Any, *, seq_len: int, packing: bool) -> MaskedLMExamples:
        """What tokenises and cuts documents."""
        return MaskedLMExamples(tokenizer, seq_len=seq_len, packing=packing)

    def features(self, rows: Features) -> Features:
        """Hides tokens (see `mask`)."""
        hidden = mask(
            rows,
            rate=self.mask_rate,
            split=self.mask_split,
            whole_words=self.whole_words,
            mask_id=self.mask_id,
            random_ids=self.random_ids,
        )
        return {**{name: x for name, x in rows.items() if name != "words"}, **hidden}

    def weights(self, features: Features) -> Features:
        """How many tokens were hidden, float32 scalar."""
        return {"loss": tf.reduce_sum(features["masked_weights"])}

    def loss(self, model: Any, features: Features, outputs: Features) -> Features:
        """The sum of losses in nats, float32 scalar.

        Args:
            model: The model, for its `logits`.
            features: As `features` makes them.
            outputs: What the model returned for them; only `hidden_states` are read.
        """
        loss = cross_entropy_sum(
            model.logits,
            _hidden(features, outputs),
            features["masked_targets"],
            features["masked_weights"],
            chunk_tokens=self.loss_chunk_tokens,
        )
        return {"loss": loss}

    def evaluation_sums(self, model: Any, features: Features, outputs: Features) -> Features:
        """Sums over a batch, float32 scalars: `loss`, `weight`, and `right`, how many were predicted."""
        loss, right = evaluated_sums(
            model.logits,
            _hidden(features, outputs),
            features["masked_targets"],
            features["masked_weights"],
            chunk_tokens=self.loss_chunk_tokens,
        )
        return {"loss": loss, "weight": tf.reduce_sum(features["masked_weights"]), "right": right}

    def predictions(self, model: Any, features: Features, outputs: Features) -> dict[str, Features]:
        """None: sums say all."""
        return {}

    def evaluation_metrics(
        self, sums: Mapping[str, float], predictions: Sequence[Prediction] = ()
    ) -> dict[str, float]:
        """Metrics of a whole split: `loss` (nats a hidden token), `perplexity`, `masked_accuracy`, `masked_tokens`."""
        loss = sums["loss"] / sums["weight"]
        return {
            "loss": loss,
            "perplexity": perplexity(loss),
            "masked_accuracy": sums["right"] / sums["weight"],
            "masked_tokens": sums["weight"],
        }


def _hidden(features: Features, outputs: Features) -> tf.Tensor:
    """The states of the tokens that were hidden, float [B, M, D]."""
    return tf.gather(outputs["hidden_states"], features["masked_positions"], batch_dims=1)
