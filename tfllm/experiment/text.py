"""A config → its text made ready: tokenizer, and the rows of one split or of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from tfllm.config import ConfigError, ExperimentConfig, Problem
from tfllm.data.errors import DataError
from tfllm.data.mixture import RowMixture
from tfllm.data.prepare import prepare_rows
from tfllm.data.sources import MixtureSource, Source, check_apart
from tfllm.data.store import RowStore
from tfllm.experiment.parts import make_task
from tfllm.experiment.source import make_source, split_side
from tfllm.experiment.tokenizer import make_tokenizer
from tfllm.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Text made ready: the tokenizer, and the rows of both splits."""

    tokenizer: Tokenizer
    train: RowStore | RowMixture
    validation: RowStore | RowMixture


def prepare(
    config: ExperimentConfig,
    tokenizer: Tokenizer | None = None,
    *,
    source: Source | None = None,
    progress: Callable[[str], Callable[[int, int], None]] | None = None,
) -> Prepared:
    """Trains or loads the tokenizer and tokenises both splits, or finds them in the cache.

    Args:
        config: The experiment.
        tokenizer: Taken instead of the config's.
        source: The text to train on, where it was made already; its files are then hashed once.
        progress: Given the name of what is tokenised next, returns what `prepare_rows` reports to.

    Raises:
        DataError, TokenizerError: when text or tokenizer cannot be used.
    """
    source = source or make_source(config.data.train)
    if config.data.validation is not None:
        check_apart(source, make_source(config.data.validation, "data.validation"))
    tokenizer = tokenizer or make_tokenizer(config, source)
    rows = _rows_of(config, tokenizer, progress)
    train = _all_rows(rows, "train", source, split=split_side(config, "train"))
    return Prepared(tokenizer, train, _held_out(config, rows, source))


def held_out_rows(config: ExperimentConfig, tokenizer: Tokenizer) -> RowStore | RowMixture:
    """The validation side of `prepare` alone; text to train on is not needed where `data.validation` is given."""
    if config.data.validation is None and config.data.train is None:
        rule, mend = "is required: this model came without text", "write data.validation.type and .path"
        raise ConfigError([Problem("data.validation", Problem.ABSENT, rule, mend)], "the config")
    return _held_out(config, _rows_of(config, tokenizer, None), None)


def _held_out(
    config: ExperimentConfig, rows: Callable[..., RowStore], source: Source | None
) -> RowStore | RowMixture:
    """Takes the text to train on where it was made already."""
    if config.data.validation is not None:
        given = make_source(config.data.validation, "data.validation")
        return rows("validation", given, require_full_row=False)
    source, split = source or make_source(config.data.train), split_side(config, "validation")
    return _all_rows(rows, "validation", source, split=split, require_rows=False)


def _rows_of(config: ExperimentConfig, tokenizer: Tokenizer, progress: Any) -> Callable[..., RowStore]:
    data = config.data
    maker = make_task(config, tokenizer).examples_of(tokenizer, seq_len=data.seq_len, packing=data.packing)

    def rows(name: str, source: Source, **settings: Any) -> RowStore:
        return prepare_rows(
            source=source,
            tokenizer=tokenizer,
            seq_len=data.seq_len,
            packing=data.packing,
            maker=maker,
            cache_dir=data.cache_dir,
            num_workers=data.num_workers,
            progress=progress(name) if progress else None,
            **settings,
        )

    return rows


def _all_rows(
    rows: Callable[..., RowStore], name: str, source: Source, *, require_rows: bool = True, **settings: Any
) -> RowStore | RowMixture:
    """The rows of a source or, one by one, of a mixture's; of a small one no document may be held out."""
    if not isinstance(source, MixtureSource):
        return rows(name, source, **settings)
    stores = [
        rows(f"{name} {number}", part, require_rows=require_rows, **settings)
        for number, part in enumerate(source.sources)
    ]
    kept = [(store, weight) for store, weight in zip(stores, source.weights, strict=True) if store.num_rows]
    if not kept:
        raise DataError(f"{source.describe()}: no document is held out; raise data.validation_fraction")
    return RowMixture(tuple(store for store, _ in kept), tuple(weight for _, weight in kept))
