"""A config → the source of its text, and the documents of one side of the split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tfllm.config import ConfigError, ExperimentConfig, Problem
from tfllm.config.data import MixtureConfig
from tfllm.data.record import TEXT, Record
from tfllm.data.sources import Source
from tfllm.data.split import split_of
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


def split_side(config: ExperimentConfig, side: str) -> tuple[str, float, int] | None:
    """Side, fraction and seed where documents are held out of the training text; None where none are."""
    if config.data.validation is not None:
        return None
    return (side, config.data.validation_fraction, config.seed)


def documents_of(
    source: Source, split: tuple[str, float, int] | None, columns: Sequence[str] = (TEXT,)
) -> Iterator[str]:
    """Yields the texts of one side, from `split_side`; of several columns, those of a record one after another."""
    for record in source.records():
        text = record.text(columns[0])
        if split is None or split_of(text, fraction=split[1], seed=split[2]) == split[0]:
            yield text
            for column in columns[1:]:
                yield record.text(column)


def held_out_documents(config: ExperimentConfig) -> Iterator[str]:
    """Yields the validation documents, as text."""
    if config.data.validation is None:
        return documents_of(make_source(config.data.train), split_side(config, "validation"))
    return documents_of(make_source(config.data.validation, "data.validation"), None)


def held_out_records(config: ExperimentConfig) -> Iterator[tuple[int, Record]]:
    """Yields the records of the one source that is held out, or of which some are, with their places in it."""
    if config.data.validation is None:
        yield from enumerate(make_source(config.data.train).records())
    else:
        yield from enumerate(make_source(config.data.validation, "data.validation").records())
