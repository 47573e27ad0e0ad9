"""A config → the source of its text, and the documents of one side of the split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tfllm.config import ConfigError, ExperimentConfig, Problem
from tfllm.config.data import MixtureConfig
from tfllm.data.conversation import texts_of
from tfllm.data.record import TEXT, Record
from tfllm.data.sources import Source
from tfllm.data.split import Split
from tfllm.experiment.build import build


def make_source(config: Any, section: str = "data.train") -> Source:
    """Builds the source that a section, `data.train` or `data.validation`, describes."""
    if config is None:
        rule, mend = (
            "is required: this model came without text",
            "train it as model.source of a config with text",
        )
        raise ConfigError([Problem(section, Problem.ABSENT, rule, mend)], "the config")
    if isinstance(config, MixtureConfig):
        parts = enumerate(config.sources)
        sources = [make_source(part.source, f"{section}.sources[{i}].source") for i, part in parts]
        return build(config, at=section, sources=sources, weights=[part.weight for part in config.sources])
    return build(config, at=section, section=section)


def split_side(config: ExperimentConfig, side: str) -> Split | None:
    """The side of the training text; None where nothing is held out of it."""
    data = config.data
    validation = data.validation_fraction if data.validation is None else 0.0
    if not validation and not data.test_fraction:
        return None
    return Split(side, config.seed, validation=validation, test=data.test_fraction, column=data.split_by)


def source_of_side(config: ExperimentConfig, side: str) -> tuple[Source, Split | None]:
    """The source that holds a side, and the split of it: the side's own section, or else the training text.

    Args:
        config: The experiment.
        side: train, validation or test.
    """
    section = getattr(config.data, side)
    if side == "train" or section is None:
        return make_source(config.data.train), split_side(config, side)
    return make_source(section, f"data.{side}"), None


def has_test(config: ExperimentConfig) -> bool:
    """Whether there is text to test on."""
    return config.data.test is not None or config.data.test_fraction > 0


def documents_of(source: Source, split: Split | None, columns: Sequence[str] = (TEXT,)) -> Iterator[str]:
    """Yields the texts of one side, from `split_side`; of several columns, those of a record one after another."""
    for record in source.records():
        if split is None or split.holds(record, columns[0]):
            for column in columns:
                yield from texts_of(record, column)


def held_out_documents(config: ExperimentConfig) -> Iterator[str]:
    """Yields the validation documents, as text."""
    return documents_of(*source_of_side(config, "validation"))


def held_out_records(config: ExperimentConfig, side: str = "validation") -> Iterator[tuple[int, Record]]:
    """Yields the records of a side that is of one source, with their places in it."""
    source, split = source_of_side(config, side)
    column = config.task.text_columns[0]
    for number, record in enumerate(source.records()):
        if split is None or split.holds(record, column):
            yield number, record
