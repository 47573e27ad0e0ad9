"""The classes of a task that finds them in its text: a config → the same with their names, which its model keeps."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Mapping
from typing import Any

from tfllm.config import ConfigError, ExperimentConfig, Problem, config_from_mapping
from tfllm.config.build import to_mapping
from tfllm.data.errors import DataError
from tfllm.data.sources import Source
from tfllm.experiment.source import make_source
from tfllm.tasks.examples.labelled_text import label_name

_SHOWN = 20


def with_classes(config: ExperimentConfig, *, notify: Callable[[str], None] = print) -> ExperimentConfig:
    """Puts the classes of the training text's column label into the model section, sorted by name or by number.

    Classes of a checkpoint stay in its order where they are the same; where they are not, or nobody has named them, the
    config must say that its layer is drawn anew.

    Args:
        config: The experiment, its model expanded.
        notify: Receives how many examples each class has.

    Raises:
        DataError: when the labels are none.
        ConfigError: when they are other classes than the model's.
    """
    if not config.task.finds_classes:
        return config
    counts = _counted(make_source(config.data.train))
    names = _checked(counts)
    model = to_mapping(config)["model"]
    kept = model["head"] == "sequence_classification" and not model["new_head"] and model["num_classes"]
    if kept:
        names = _as_there(model, names)
    else:
        drawn = model["source"] is not None
        model |= {"head": "sequence_classification", "new_head": drawn, "num_classes": len(names)}
        if model["pooling"] == "first" and model["pooler"] == "none":
            model["pooler"] = "tanh"  # as BERT has it
    model["class_names"] = names
    shown = ", ".join(f"{name} {counts[name]}" for name in names[:_SHOWN])
    notify(f"classes: {shown}{', …' if len(names) > _SHOWN else ''}")
    return config_from_mapping(
        {**to_mapping(config), "model": model, "task": _task(config, counts, names)},
        source="the config with the classes of its text",
    )


def _counted(source: Source) -> Mapping[str, int]:
    return collections.Counter(label_name(record) for record in source.records())


def _checked(counts: Mapping[str, int]) -> list[str]:
    """The names, in order."""
    total = sum(counts.values())
    if len(counts) < 2:
        only = (
            f"all {total} records have the label {next(iter(counts))!r}" if counts else "there is no record"
        )
        raise DataError(f"{only}, and a classification needs two classes; name another column as label")
    if len(counts) == total > _SHOWN:
        raise DataError(
            f"each of the {total} records has a label of its own, such as {min(counts)!r}: that is no class; name"
            " another column as label"
        )
    if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in counts):
        return sorted(counts, key=int)
    return sorted(counts)


def _as_there(model: Mapping[str, Any], names: list[str]) -> list[str]:
    """The names in the model's order."""
    there = model["class_names"]
    if there is None and names == [str(index) for index in range(model["num_classes"])]:
        return names
    if there is not None and sorted(there) == sorted(names):
        return list(there)
    words = f"{model['num_classes']} classes without names" if there is None else ", ".join(there[:_SHOWN])
    rule = f"are those of the model, and the text has {', '.join(names[:_SHOWN])}"
    mend = "write model.new_head=true to learn the text's, or mend the labels"
    raise ConfigError([Problem("model.class_names", words, rule, mend)], "the config")


def _task(config: ExperimentConfig, counts: Mapping[str, int], names: list[str]) -> dict[str, Any]:
    """With the weights that make all classes count alike, where they are asked for."""
    task = to_mapping(config)["task"]
    if not config.task.balanced:
        return task
    total = sum(counts.values())
    weights = {name: round(total / (len(names) * counts[name]), 6) for name in names}
    return {**task, "balanced": False, "class_weights": weights}
