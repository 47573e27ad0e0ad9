"""Tell how two marked places of a text are related."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfllm.evaluation.classification import relation_f1
from tfllm.evaluation.predictions import Prediction
from tfllm.tasks.classification import Classification
from tfllm.tasks.errors import TaskError
from tfllm.tasks.examples.marked_text import MarkedText


def relation_extraction(
    *, tokenizer: Any, balanced: bool, loss_chunk_tokens: int | None, **settings: Any
) -> RelationExtraction:
    """Make the task of a config."""
    del tokenizer, balanced, loss_chunk_tokens  # the classes and their weights were found
    return RelationExtraction(**settings)


class RelationExtraction(Classification):
    """Cross-entropy of the relation of two places, which are marked in the text (see `MarkedText`).

    Args:
        class_names: The relations C, in the order of the model's logits.
        no_relation: The one of them that says that there is none; None where there is no such.
        token_types: The model tells token types apart.
        class_weights: What each relation counts, by name; those left out count 1.
        label_smoothing: The share that is spread.

    Raises:
        TaskError: `no_relation`, or one that a weight is given to, is not there.
    """

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        no_relation: str | None = None,
        token_types: bool = True,
        class_weights: Mapping[str, float] | None = None,
        label_smoothing: float = 0.0,
    ):
        super().__init__(
            class_names=class_names,
            token_types=token_types,
            class_weights=class_weights,
            label_smoothing=label_smoothing,
        )
        if no_relation is not None and no_relation not in self.class_names:
            known = ", ".join(map(repr, self.class_names[:20]))
            raise TaskError(f"task.no_relation={no_relation} is no relation of the text; there are {known}")
        self.no_relation = no_relation
        if no_relation is not None:
            self.of_examples = ("relation_f1", *self.of_examples)  # type: ignore[misc]
            self.metric_modes = {"relation_f1": "max", **self.metric_modes}  # type: ignore[misc]

    def examples_of(self, tokenizer: Any, *, seq_len: int, packing: bool) -> MarkedText:
        """What marks and tokenises the texts of a record."""
        return MarkedText(tokenizer, seq_len=seq_len, packing=packing, labels=self.labels)

    def metrics_of(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """What `classification_metrics` finds, and `relation_f1` where one of the relations is none."""
        found = super().metrics_of(predictions)
        if self.no_relation is None:
            return found
        said = np.array([each.values["probabilities"].argmax() for each in predictions], np.int32)
        meant = np.array([each.values["label"] for each in predictions], np.int32)
        return {"relation_f1": relation_f1(said, meant, self.class_names.index(self.no_relation)), **found}
