"""Predict hidden tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfllm.evaluation.metrics import token_metrics
from tfllm.evaluation.predictions import Prediction
from tfllm.tasks.errors import TaskError
from tfllm.tasks.examples.masked_lm import MaskedLMExamples
from tfllm.tasks.examples.sentence_pairs import SentencePairExamples
from tfllm.tasks.masking import mask
from tfllm.tasks.vocabulary_loss import cross_entropy_sum, evaluated_sums

Features = dict[str, tf.Tensor]


class MaskedLM:
    """Cross-entropy of tokens that were hidden, from what stands around them (Devlin et al. 2019).

    With `next_sentence` rows are two parts of text, and whether the second follows the first is learned too: the loss
    is the sum of both means, that over tokens and that over rows.

    Which tokens are hidden is drawn anew wherever a row comes in the sequence of training, from its place in it; in
    evaluation it is always the same. Only what was hidden is projected onto the vocabulary.

    Args:
        tokenizer: The tokenizer, which has a mask token.
        mask_rate: Share of the tokens that are hidden.
        mask_split: Of these, the shares that become the mask token, a token drawn from all, and stay what they are.
        whole_words: Hides all tokens of a word or none.
        next_sentence: Learn this too; the model has a next-sentence head.
        loss_chunk_tokens: As in `CausalLM`.

    Raises:
        TaskError: when the tokenizer has no mask token.
    """

    aligned: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        *,
        tokenizer: Any,
        mask_rate: float = 0.15,
        mask_split: Sequence[float] = (0.8, 0.1, 0.1),
        whole_words: bool = False,
        next_sentence: bool = False,
        loss_chunk_tokens: int | None = None,
    ):
        if tokenizer.mask_id is None:
            raise TaskError(
                "task.type=masked_lm needs a tokenizer with a mask token, and this one has none; take"
                " tokenizer.type wordpiece, byte_bpe or sentencepiece, which learn one, or that of a BERT"
            )
        self.mask_rate, self.mask_split, self.whole_words = mask_rate, tuple(mask_split), whole_words
        self.mask_id = int(tokenizer.mask_id)
        ordinary = set(range(tokenizer.vocab_size)) - set(tokenizer.special_ids)
        self.random_ids = np.array(sorted(ordinary), np.int32)
        self.next_sentence = next_sentence
        self.loss_chunk_tokens = loss_chunk_tokens

    @property
    def coefficients(self) -> dict[str, float]:
        """Each term counts 1."""
        return {"masked_lm": 1.0, "next_sentence": 1.0} if self.next_sentence else {"loss": 1.0}

    @property
    def metric_modes(self) -> dict[str, str]:
        """The metrics that say how good a model is, and whether the smallest, `min`, or the largest, `max`, is best."""
        more = {"next_sentence_accuracy": "max"} if self.next_sentence else {}
        return {"loss": "min", "perplexity": "min", "masked_accuracy": "max", **more}

    def examples_of(
        self, tokenizer: Any, *, seq_len: int, packing: bool
    ) -> MaskedLMExamples | SentencePairExamples:
        """What tokenises and cuts documents, into parts that fill rows, or into pairs of which each has its own row."""
        if self.next_sentence:
            return SentencePairExamples(tokenizer, seq_len=seq_len)
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
        """How many tokens were hidden, and how many rows are pairs; float32 scalars."""
        masked = tf.reduce_sum(features["masked_weights"])
        if not self.next_sentence:
            return {"loss": masked}
        return {"masked_lm": masked, "next_sentence": tf.reduce_sum(_is_pair(features))}

    def loss(self, model: Any, features: Features, outputs: Features) -> Features:
        """The sums of losses in nats, float32 scalars.

        Args:
            model: The model, for its `logits`.
            features: As `features` makes them.
            outputs: What the model returned for them; `hidden_states` and `next_sentence_logits` are read.
        """
        loss = cross_entropy_sum(
            model.logits,
            _hidden(features, outputs),
            features["masked_targets"],
            features["masked_weights"],
            chunk_tokens=self.loss_chunk_tokens,
        )
        if not self.next_sentence:
            return {"loss": loss}
        return {"masked_lm": loss, "next_sentence": _next_sentence_sums(features, outputs)[0]}

    def evaluation_sums(self, model: Any, features: Features, outputs: Features) -> Features:
        """Sums over a batch, float32 scalars: `loss`, `weight`, and `right`, how many were predicted; of pairs too."""
        loss, right = evaluated_sums(
            model.logits,
            _hidden(features, outputs),
            features["masked_targets"],
            features["masked_weights"],
            chunk_tokens=self.loss_chunk_tokens,
        )
        sums = {"loss": loss, "weight": tf.reduce_sum(features["masked_weights"]), "right": right}
        if self.next_sentence:
            pairs = (*_next_sentence_sums(features, outputs), tf.reduce_sum(_is_pair(features)))
            sums |= dict(zip(("pair_loss", "pair_right", "pairs"), pairs, strict=True))
        return sums

    def predictions(self, model: Any, features: Features, outputs: Features) -> dict[str, Features]:
        """None: sums say all."""
        return {}

    def joined(self, predictions: Sequence[Prediction]) -> Sequence[Prediction]:
        """As they are."""
        return predictions

    def evaluation_metrics(
        self, sums: Mapping[str, float], predictions: Sequence[Prediction] = ()
    ) -> dict[str, float]:
        """Metrics of a whole split: `loss` (nats a hidden token), `perplexity`, `masked_accuracy`, `masked_tokens`.

        With `next_sentence`, `loss` is the sum of both means, and there are `next_sentence_accuracy` and
        `next_sentence_pairs`.
        """
        metrics = token_metrics(sums, accuracy="masked_accuracy", tokens="masked_tokens")
        if self.next_sentence:
            metrics |= {
                "loss": metrics["loss"] + sums["pair_loss"] / sums["pairs"],
                "next_sentence_accuracy": sums["pair_right"] / sums["pairs"],
                "next_sentence_pairs": sums["pairs"],
            }
        return metrics


def _hidden(features: Features, outputs: Features) -> tf.Tensor:
    """The states of the tokens that were hidden, float [B, M, D]."""
    return tf.gather(outputs["hidden_states"], features["masked_positions"], batch_dims=1)


def _is_pair(features: Features) -> tf.Tensor:
    """1 for rows that are pairs, 0 for those that only fill up a batch; float32 [B]."""
    return tf.cast(features["segment_ids"][:, 0] > 0, tf.float32)


def _next_sentence_sums(features: Features, outputs: Features) -> tuple[tf.Tensor, tf.Tensor]:
    """The loss of telling whether second parts follow, in nats, and how often that was right; float32 scalars."""
    labels, logits = features["next_sentence_labels"][:, 0], outputs["next_sentence_logits"]
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    right = tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32) == labels, tf.float32)
    pairs = _is_pair(features)
    return tf.reduce_sum(losses * pairs), tf.reduce_sum(right * pairs)
