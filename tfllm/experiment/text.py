"""A config → its text made ready: tokenizer, and the rows of one side or of all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from tfllm.config import ConfigError, ExperimentConfig, Problem
from tfllm.data.augmentation import Augmentation, AugmentedExamples
from tfllm.data.errors import DataError
from tfllm.data.mixture import RowMixture
from tfllm.data.prepare import prepare_rows
from tfllm.data.sources import MixtureSource, Source, check_apart
from tfllm.data.store import RowStore
from tfllm.experiment.parts import make_task
from tfllm.experiment.source import has_test, make_source, split_side
from tfllm.experiment.tokenizer import make_tokenizer
from tfllm.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Text made ready: the tokenizer, and the rows of each side; of the test None where there is none."""

    tokenizer: Tokenizer
    train: RowStore | RowMixture
    validation: RowStore | RowMixture
    test: RowStore | RowMixture | None = None

    @property
    def sides(self) -> dict[str, RowStore | RowMixture]:
        """The rows by side, in order."""
        rows = {"train": self.train, "validation": self.validation}
        return rows if self.test is None else {**rows, "test": self.test}


def prepare(
    config: ExperimentConfig,
    tokenizer: Tokenizer | None = None,
    *,
    source: Source | None = None,
    progress: Callable[[str], Callable[[int, int], None]] | None = None,
) -> Prepared:
    """Trains or loads the tokenizer and tokenises every side, or finds them in the cache.

    Args:
        config: The experiment.
        tokenizer: Taken instead of the config's.
        source: The text to train on, where it was made already; its files are then hashed once.
        progress: Given the name of what is tokenised next, returns what `prepare_rows` reports to.

    Raises:
        DataError, TokenizerError: when text or tokenizer cannot be used.
    """
    source = source or make_source(config.data.train)
    for side in ("validation", "test"):
        if getattr(config.data, side) is not None:
            check_apart(source, make_source(getattr(config.data, side), f"data.{side}"))
    tokenizer = tokenizer or make_tokenizer(config, source)
    rows = _rows_of(config, tokenizer, progress)
    train = _all_rows(rows, "train", source, split=split_side(config, "train"))
    validation = _held_out(config, rows, source, "validation")
    return Prepared(
        tokenizer, train, validation, _held_out(config, rows, source, "test") if has_test(config) else None
    )


def held_out_rows(
    config: ExperimentConfig, tokenizer: Tokenizer, side: str = "validation"
) -> RowStore | RowMixture:
    """The validation or test side of `prepare` alone; text to train on is not needed where it has a section.

    Raises:
        ConfigError: when there is no such text.
    """
    key = f"data.{side}"
    if side == "test" and not has_test(config):
        rule, mend = "is required: nothing was held out to test on", f"write {key}.path"
        raise ConfigError([Problem(key, Problem.ABSENT, rule, mend)], "the config")
    if getattr(config.data, side) is None and config.data.train is None:
        rule, mend = "is required: this model came without text", f"write {key}.type and .path"
        raise ConfigError([Problem(key, Problem.ABSENT, rule, mend)], "the config")
    return _held_out(config, _rows_of(config, tokenizer, None), None, side)


def _held_out(
    config: ExperimentConfig, rows: Callable[..., RowStore], source: Source | None, side: str
) -> RowStore | RowMixture:
    """Takes the text to train on where it was made already."""
    section = getattr(config.data, side)
    if section is not None:
        return rows(side, make_source(section, f"data.{side}"), require_full_row=False)
    source, split = source or make_source(config.data.train), split_side(config, side)
    return _all_rows(rows, side, source, split=split, require_rows=False)


def _rows_of(config: ExperimentConfig, tokenizer: Tokenizer, progress: Any) -> Callable[..., RowStore]:
    data = config.data
    maker = make_task(config, tokenizer).examples_of(tokenizer, seq_len=data.seq_len, packing=data.packing)

    trained = maker
    if data.augment.copies:
        augmentation = Augmentation(**dataclasses.asdict(data.augment), seed=config.seed)
        trained = AugmentedExamples(maker, augmentation, config.task.altered)

    def rows(name: str, source: Source, **settings: Any) -> RowStore:
        return prepare_rows(
            source=source,
            tokenizer=tokenizer,
            seq_len=data.seq_len,
            packing=data.packing,
            maker=trained if name.startswith("train") else maker,
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
        raise DataError(f"{source.describe()}: no document is held out; raise the share that is")
    return RowMixture(tuple(store for store, _ in kept), tuple(weight for _, weight in kept))
