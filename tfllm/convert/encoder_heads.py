"""Which heads a checkpoint of an encoder has: what its class says, and what its tensors show."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Set
from typing import Any

from tfllm.convert.classes import read_classes, read_text_classes, write_classes
from tfllm.convert.config_reader import ConfigReader
from tfllm.convert.config_table import Arguments

_NEXT_SENTENCE = {"next_sentence_head": True}
# Ends of transformers' classes, and what stands on the encoder; the first that fits is written.
_CLASSES: dict[str, Arguments] = {
    "Model": {"head": "none"},
    "ForPreTraining": {"head": "masked_lm", **_NEXT_SENTENCE},
    "ForMaskedLM": {"head": "masked_lm"},
    "ForNextSentencePrediction": {"head": "none", **_NEXT_SENTENCE},
    "ForSequenceClassification": {"head": "sequence_classification"},
    "ForTokenClassification": {"head": "token_classification"},
    "ForQuestionAnswering": {"head": "span"},
}


@dataclasses.dataclass(frozen=True)
class EncoderHeads:
    """The heads of a family; a `Heads`.

    Args:
        name: What transformers' classes begin with: Bert.
        tensors: Our heads, each with tensors that show it, in the order in which they are looked for.
        pooler: The end of a name that shows a pooler.
        pooler_activation: Its activation.
        own_pooler: The classifier of rows has a pooler of its own, and does not read that of the model.
        next_sentence: The tensor that shows the next-sentence head; None where the family has none.
    """

    name: str
    tensors: Mapping[str, Collection[str]]
    pooler: str = "pooler.dense.weight"
    pooler_activation: str = "tanh"
    own_pooler: bool = False
    next_sentence: str | None = None

    def read(self, config: ConfigReader, names: Set[str]) -> Arguments:
        """See `Heads`."""
        claimed = self._claimed(config)
        head = claimed.get("head", "none")
        if head == "none":
            found = (head for head, tensors in self.tensors.items() if names >= set(tensors))
            head = next(found, "none")
        next_sentence = claimed.get("next_sentence_head", False) or self.next_sentence in names
        poolers = [name for name in names if name.endswith(self.pooler)]
        if self.own_pooler and head == "sequence_classification":
            config.notes += [f"{name} is not read by the classifier and was left aside" for name in poolers]
        pools = next_sentence or head == "sequence_classification" or bool(poolers)
        classes: Arguments = {}
        if head == "token_classification":
            classes = read_classes(config)
        elif head == "sequence_classification":
            classes = read_text_classes(config)
        return {
            "head": head,
            "pooler": self.pooler_activation if pools else "none",
            "next_sentence_head": next_sentence,
            **classes,
        }

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """See `Heads`."""
        says = {"head": arguments["head"], "next_sentence_head": arguments["next_sentence_head"]}
        for end, meant in self._classes().items():
            if {"next_sentence_head": False, **meant} == says:
                return {"architectures": [self.name + end], **write_classes(arguments)}
        # Reading what was written shows that there is no such class.
        return {"architectures": [f"{self.name}Model"]}

    def bare(self, arguments: Arguments) -> bool:
        """See `Heads`."""
        return arguments["head"] == "none" and not arguments["next_sentence_head"]

    def _claimed(self, config: ConfigReader) -> Arguments:
        listed = config.take("architectures", list, None)
        if not listed:
            return {}
        known = {self.name + end: meant for end, meant in self._classes().items()}
        if not isinstance(listed[0], str) or listed[0] not in known:
            raise config.refuse("architectures", listed, f"{', '.join(known)} are")
        return known[listed[0]]

    def _classes(self) -> dict[str, Arguments]:
        if self.next_sentence is not None:
            return _CLASSES
        return {end: meant for end, meant in _CLASSES.items() if "next_sentence_head" not in meant}
