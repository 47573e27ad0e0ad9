"""Tell what the words of a text are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfllm.evaluation.predictions import Prediction
from tfllm.evaluation.tagging import span_metrics, tag_metrics
from tfllm.tasks.examples.tagged_text import TaggedText
from tfllm.tasks.tags import mark_spans, spans_of

Features = dict[str, tf.Tensor]


class TokenClassification:
    """Cross-entropy of the tag of each word, which its first token tells.

    Where tags mark spans, what counts is whole spans: the same words and the same kind. What is said is read by the
    rule by which tags are (see `spans_of`): an I- that goes on with nothing begins a span.

    Args:
        class_names: The tags C, in the order of the model's logits.
        tag_names: Names of tags that are numbers in the text.
        tokenizer: Of no use here.
        loss_chunk_tokens: Of no use here.
    """

    coefficients: ClassVar[Mapping[str, float]] = {"loss": 1.0}
    aligned: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        tag_names: Sequence[str] = (),
        tokenizer: Any = None,
        loss_chunk_tokens: int | None = None,
    ):
        del tokenizer, loss_chunk_tokens
        self.class_names, self.tag_names = tuple(class_names), tuple(tag_names)
        self.marks_spans = mark_spans(self.class_names)
        spans = ((name, kind) for name in self.class_names for _, _, kind in spans_of([name]))
        self.kinds = tuple(dict.fromkeys(kind for _, kind in spans)) if self.marks_spans else ()

    @property
    def of_examples(self) -> Sequence[str]:
        """The metrics that are made of predictions of examples."""
        return tuple(name for name in self.metric_modes if name != "loss")

    @property
    def metric_modes(self) -> Mapping[str, str]:
        """The metrics that say how good a model is, and whether the smallest, `min`, or the largest, `max`, is best."""
        names = ("span_f1", "span_precision", "span_recall") if self.marks_spans else ("f1_macro",)
        return {**dict.fromkeys((*names, "accuracy"), "max"), "loss": "min"}

    def examples_of(self, tokenizer: Any, *, seq_len: int, packing: bool) -> TaggedText:
        """What tokenises the words of a record."""
        return TaggedText(
            tokenizer,
            seq_len=seq_len,
            packing=packing,
            class_names=self.class_names,
            tag_names=self.tag_names,
        )

    def features(self, rows: Features) -> Features:
        """The rows as they are."""
        return rows

    def word_weights(self, features: Features) -> tf.Tensor:
        """What each token counts, float32 [B, T]: its record's weight where it tells a tag, else 0."""
        segment = tf.maximum(features["segment_ids"] - 1, 0)
        weights = tf.gather(features["weights"], segment, batch_dims=1)
        return tf.where(features["words"] > 0, weights, 0.0)

    def weights(self, features: Features) -> Features:
        """What all words count together, float32 scalar."""
        return {"loss": tf.reduce_sum(self.word_weights(features))}

    def loss(self, model: Any, features: Features, outputs: Features) -> Features:
        """The sum of losses in nats, float32 scalar.

        Args:
            model: Not asked.
            features: `tags`, `words` and `segment_ids` int32 [B, T], `weights` float32 [B, S].
            outputs: `logits` float32 [B, T, C].
        """
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(features["tags"], outputs["logits"])
        return {"loss": tf.reduce_sum(losses * self.word_weights(features))}

    def evaluation_sums(self, model: Any, features: Features, outputs: Features) -> Features:
        """`loss` and `weight`, float32 scalars: all else is computed of predictions."""
        return {
            "loss": self.loss(model, features, outputs)["loss"],
            "weight": self.weights(features)["loss"],
        }

    def predictions(self, model: Any, features: Features, outputs: Features) -> dict[str, Features]:
        """The word of each token, the likeliest tag, and its own."""
        said = tf.argmax(outputs["logits"], axis=-1, output_type=tf.int32)
        return {"tokens": {"words": features["words"], "tags": said, "labels": features["tags"]}}

    def joined(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """The words of all windows of a text, in order: `tags` and `labels` int32 [n], places in `class_names`; and
        where tags mark spans `spans` int64 [kinds, 3]: those that are right, said and meant."""
        joined = []
        for number, windows in groupby(predictions, key=lambda each: each.number):
            parts = list(windows)
            words, said, meant = (
                np.concatenate([each.values[name] for each in parts]) for name in ("words", "tags", "labels")
            )
            order = np.argsort(words, kind="stable")[np.count_nonzero(words == 0) :]
            values = {"tags": said[order], "labels": meant[order]}
            if self.marks_spans:
                values["spans"] = self._counts(values["tags"], values["labels"])
            joined.append(Prediction(number, values))
        return joined

    def evaluation_metrics(
        self, sums: Mapping[str, float], predictions: Sequence[Prediction] = ()
    ) -> dict[str, float]:
        """`loss` (nats a word), what `span_metrics` or `tag_metrics` find, and `words`."""
        said, meant = (
            np.concatenate([np.zeros(0, np.int32), *(each.values[name] for each in predictions)])
            for name in ("tags", "labels")
        )
        found = tag_metrics(said, meant, len(self.class_names))
        if self.marks_spans:
            spans = np.sum(
                [np.zeros([len(self.kinds), 3], np.int64), *(each.values["spans"] for each in predictions)],
                axis=0,
            )
            found = {**span_metrics(spans, self.kinds), "accuracy": found["accuracy"]}
        return {
            "loss": sums["loss"] / sums["weight"] if sums["weight"] else float("nan"),
            **found,
            "words": float(len(meant)),
        }

    def _counts(self, said: np.ndarray, meant: np.ndarray) -> np.ndarray:
        """Spans of each kind that are right, said and meant, int64 [kinds, 3]."""
        told, own = (set(spans_of([self.class_names[place] for place in tags])) for tags in (said, meant))
        counts = np.zeros([len(self.kinds), 3], np.int64)
        for column, spans in enumerate((told & own, told, own)):
            for _, _, kind in spans:
                counts[self.kinds.index(kind), column] += 1
        return counts
