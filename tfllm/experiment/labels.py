"""What the labels of the training text ask of a model: a config → the same with the layer that tells them."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from tfllm.config import ConfigError, ExperimentConfig, Problem, config_from_mapping
from tfllm.config.build import to_mapping
from tfllm.data.errors import DataError
from tfllm.data.record import Record
from tfllm.data.sources import Source
from tfllm.experiment.source import make_source, split_side
from tfllm.tasks.examples.asked_record import asked_record
from tfllm.tasks.examples.labels import label_name, label_names, label_number
from tfllm.tasks.examples.tagged_record import tagged_record
from tfllm.tasks.tags import iob2, mark_spans, spans_of, tag_names

_SHOWN = 20
_LONGEST = 60  # characters of a text that is shown
_Counts: TypeAlias = "collections.Counter[str]"


def with_labels(config: ExperimentConfig, *, notify: Callable[[str], None] = print) -> ExperimentConfig:
    """Puts the layer that a task of labels trains into the model section: its classes, by name, or one number.

    The classes are those of the training text's column label, sorted by name or by number. Classes of a checkpoint
    stay in its order where they are the same; where they are not, or nobody has named them, the config must say that
    its layer is drawn anew.

    Args:
        config: The experiment, its model expanded.
        notify: Receives how many examples each class has, or between which numbers all labels are.

    Raises:
        DataError: when the labels are none.
        ConfigError: when they are other classes than the model's.
    """
    if config.task.labels is None:
        return config
    source = make_source(config.data.train)
    mapping = to_mapping(config)
    if config.task.labels == "numbers":
        notify(_range(source))
        mapping["model"] = _with_layer(mapping["model"], None)
    elif config.task.labels == "answers":
        mapping["task"]["unanswerable"] |= _answers(source, notify)
    elif config.task.labels == "tags":
        names = _tags(config, source, notify)
        _check_held_out(config, names)
        mapping["model"] = _with_layer(mapping["model"], names, head="token_classification")
    else:
        counts, total, trained = _counted(config, source)
        names = _checked(counts, total, several=config.task.multi_label)
        _check_held_out(config, names)
        mapping["model"] = _with_layer(mapping["model"], names, multi_label=config.task.multi_label)
        names = mapping["model"]["class_names"]
        shown = ", ".join(f"{name} {counts[name]}" for name in names[:_SHOWN])
        notify(f"classes: {shown}{', …' if len(names) > _SHOWN else ''}")
        for name in names:
            if not trained[name]:
                notify(f"class {name!r}: no record is left to train on, all {counts[name]} are held out")
        if config.task.balanced:
            mapping["task"] |= {"balanced": False, "class_weights": _balanced(counts, names)}
    return config_from_mapping(mapping, source="the config with the labels of its text")


def _with_layer(
    model: dict[str, Any],
    names: list[str] | None,
    *,
    head: str = "sequence_classification",
    multi_label: bool = False,
) -> dict[str, Any]:
    """A model section with a layer for these classes, or for one number; it is drawn anew where the model has none."""
    model = {**model, "multi_label": multi_label}
    there = model["num_classes"] if model["head"] == head else None
    fits = there is not None and (there == 1) == (names is None)
    if fits and not model["new_head"]:
        return model if names is None else {**model, "class_names": _as_there(model, names)}
    drawn = {"head": head, "new_head": model["source"] is not None}
    if head == "sequence_classification" and model["pooling"] == "first" and model.get("pooler") == "none":
        drawn["pooler"] = "tanh"  # as BERT has it
    return {**model, **drawn, "num_classes": len(names or [""]), "class_names": names}


def _range(source: Source) -> str:
    """Between what the numbers are; of none, or of one that all have, there is nothing to learn."""
    numbers = [label_number(record) for record in source.records()]
    least, most = min(numbers, default=0.0), max(numbers, default=0.0)
    if least == most:
        found = f"all {len(numbers)} records have the label {least:g}" if numbers else "there is no record"
        raise DataError(f"{found}, and of that nothing is learned; name another column as label")
    return f"labels: {len(numbers)} numbers from {least:g} to {most:g}, mean {sum(numbers) / len(numbers):g}"


def _answers(source: Source, notify: Callable[[str], None]) -> bool:
    """Whether there are questions without an answer."""
    count = silent = moved = lost = 0
    first = ""
    for record in source.records():
        asked = asked_record(record)
        count += 1
        silent += not asked.texts
        moved += asked.moved
        lost += asked.is_lost
        if asked.is_lost and not first:
            first = f"{record.at}{asked.texts[0][:_LONGEST]!r}"
    if silent + lost == count:
        why = f"the answers of {lost} are not found in their contexts, such as {first}" if lost else ""
        raise DataError(
            f"of {count} questions none has an answer in its context{', and ' if why else ''}{why}; name other columns"
            " as question, context and answers"
        )
    notify(f"questions: {count}, of which {silent} have no answer" if silent else f"questions: {count}")
    if moved:
        notify(
            f"{moved} answers are elsewhere in their contexts than answer_start says, and were found there"
        )
    if lost:
        notify(
            f"{lost} questions are not learned from: their answers are not in their contexts, such as {first}"
        )
    return silent > 0


def _tags(config: ExperimentConfig, source: Source, notify: Callable[[str], None]) -> list[str]:
    """The tags to learn: O, and B- and I- of each kind of spans, sorted; or, where tags mark none, these, sorted."""
    tags: _Counts = collections.Counter()
    kinds: _Counts = collections.Counter()
    trained: _Counts = collections.Counter()
    is_trained = _is_trained(config)
    for record in source.records():
        found = tagged_record(record, config.task.tag_names).tags
        spans = [kind for _, _, kind in spans_of(found)]
        tags.update(found)
        kinds.update(spans)
        if is_trained(record):
            trained.update({*found, *spans})
    marks, words = mark_spans(tags), sum(tags.values())
    counts = kinds if marks else tags
    if not kinds if marks else len(tags) < 2:
        only = f"all {words} words have the tag {next(iter(tags))!r}" if tags else "there are no words"
        raise DataError(f"{only}, and of that nothing is learned; name another column as tags or spans")
    named = (f"{kind or 'of no kind'} {counts[kind]}" for kind in sorted(counts)[:_SHOWN])
    more = ", …" if len(counts) > _SHOWN else ""
    notify(f"{'spans' if marks else 'tags'} in {words} words: {', '.join(named)}{more}")
    for kind in sorted(counts):
        if not trained[kind]:
            notify(f"{kind!r}: no record is left to train on, all {counts[kind]} are held out")
    return tag_names(sorted(kinds)) if marks else sorted(tags)


def _counted(config: ExperimentConfig, source: Source) -> tuple[_Counts, int, _Counts]:
    """How many records each class has, how many there are, and how many of each class are trained on."""
    counts: _Counts = collections.Counter()
    trained: _Counts = collections.Counter()
    total, is_trained = 0, _is_trained(config)
    for record in source.records():
        names = _names(config, record)
        counts.update(names)
        total += 1
        if is_trained(record):
            trained.update(names)
    return counts, total, trained


def _is_trained(config: ExperimentConfig) -> Callable[[Record], bool]:
    """Whether a record is trained on, and not held out."""
    split, column = split_side(config, "train"), config.task.text_columns[0]
    return lambda record: split is None or split.holds(record, column)


def _names(config: ExperimentConfig, record: Record) -> list[str]:
    if config.task.labels == "tags":
        tags = tagged_record(record, config.task.tag_names).tags
        return iob2(spans_of(tags), len(tags)) if mark_spans(tags) else tags
    return (
        label_names(record, config.task.label_separator) if config.task.multi_label else [label_name(record)]
    )


def _check_held_out(config: ExperimentConfig, names: list[str]) -> None:
    """What is validated and tested on has no other classes."""
    for side, purpose in (("validation", "validate"), ("test", "test")):
        if getattr(config.data, side) is not None:
            _check_side(config, names, side, purpose)


def _check_side(config: ExperimentConfig, names: list[str], side: str, purpose: str) -> None:
    unknown: _Counts = collections.Counter()
    first = ""
    for record in make_source(getattr(config.data, side), f"data.{side}").records():
        unseen = set(_names(config, record)) - set(names)
        first = first or (record.at if unseen else "")
        unknown.update(unseen)
    if unknown:
        known = ", ".join(map(repr, names[:_SHOWN]))
        label, count = next(iter(unknown.items()))
        more = f", and {len(unknown) - 1} other labels too" if len(unknown) > 1 else ""
        raise DataError(
            f"{first}the label {label!r} is none of those that the training text has: {known}; it stands in"
            f" {count} record{'s' if count > 1 else ''} to {purpose} on{more}; mend them, or add records with this"
            " label to the training text"
        )


def _checked(counts: Mapping[str, int], total: int, *, several: bool) -> list[str]:
    """The names, in order."""
    if len(counts) < 2:
        only = f"all {total} records have the label {next(iter(counts))!r}" if counts else "there is no label"
        if several and counts:
            only = f"{next(iter(counts))!r} is the only label"
        raise DataError(f"{only}, and a classification needs two classes; name another column as label")
    if len(counts) == total > _SHOWN and max(counts.values()) == 1:
        raise DataError(
            f"each of the {total} records has a label of its own, such as {min(counts)!r}: that is no class; name"
            " another column as label, or learn numbers with task.type=regression"
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


def _balanced(counts: Mapping[str, int], names: list[str]) -> dict[str, float]:
    """The weights that make all classes count alike."""
    total = sum(counts.values())
    return {name: round(total / (len(names) * counts[name]), 6) for name in names}
