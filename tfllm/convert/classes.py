"""The classes of a checkpoint: what its config says of them, and the layer of a decoder that tells them."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfllm.convert.config_reader import ConfigReader
from tfllm.convert.config_table import Arguments
from tfllm.convert.weight_table import Row, linear

_MULTI_LABEL = "multi_label_classification"


def read_classes(config: ConfigReader) -> Arguments:
    """`num_classes`, and `class_names` where they are given."""
    names = config.take("id2label", dict, None)
    if names is None:
        return {"num_classes": config.size("num_labels", 2)}
    listed = [names.get(str(index)) for index in range(len(names))]
    if not listed or None in listed:
        raise config.refuse("id2label", names, "its keys must be 0, 1, 2 and so on")
    given = listed != _unnamed(len(listed))
    return {"num_classes": len(listed), "class_names": tuple(map(str, listed)) if given else None}


def read_text_classes(config: ConfigReader) -> Arguments:
    """The same of classes of whole texts, and `multi_label` where there are several."""
    classes = read_classes(config)
    if classes["num_classes"] == 1:
        return classes
    problem = config.take("problem_type", str, None)
    if problem == "regression":
        config.notes.append("problem_type=regression tells several numbers, which classify takes for classes")
    return {**classes, "multi_label": problem == _MULTI_LABEL}


def write_classes(arguments: Arguments) -> dict[str, Any]:
    """The inverse of both; nothing where there are no classes."""
    count = arguments["num_classes"]
    if count is None:
        return {}
    names = arguments["class_names"] or _unnamed(count)
    return {
        **({"problem_type": _MULTI_LABEL} if arguments["multi_label"] else {}),
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


@dataclasses.dataclass(frozen=True)
class DecoderHead:
    """Whether a decoder tells classes of texts, as its class in transformers says; a `ConfigRow`.

    Args:
        classifier: transformers' class that does: LlamaForSequenceClassification.
    """

    classifier: str

    def read(self, config: ConfigReader, arguments: Arguments) -> Arguments:
        """See `ConfigRow`."""
        del arguments
        listed = config.take("architectures", list, None)
        if not listed or listed[0] != self.classifier:
            return {"head": "causal_lm"}
        return {"head": "sequence_classification", "pooling": "last", **read_text_classes(config)}

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """See `ConfigRow`."""
        if arguments["head"] == "causal_lm":
            return {}
        return {"architectures": [self.classifier], **write_classes(arguments)}


def classifier_rows(arguments: Arguments) -> list[Row]:
    """The layer of a decoder that tells classes, where it has one."""
    if arguments["head"] != "sequence_classification":
        return []
    return linear("score", "classifier", bias=False)


def _unnamed(count: int) -> list[str]:
    return [f"LABEL_{index}" for index in range(count)]
