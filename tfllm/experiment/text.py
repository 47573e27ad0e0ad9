"""A config → source, tokenizer, and the rows of one split or of both."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

from tfllm.config import ConfigError, ExperimentConfig, Problem
from tfllm.config.data import MixtureConfig
from tfllm.config.home import expand_home
from tfllm.data.errors import DataError
from tfllm.data.mixture import RowMixture
from tfllm.data.prepare import prepare_rows
from tfllm.data.sample import sampled_texts
from tfllm.data.sources import (
    JsonlSource,
    MixtureSource,
    PythonDocsSource,
    Source,
    TextFilesSource,
    TfdsSource,
    TfRecordSource,
    check_apart,
)
from tfllm.data.split import split_of
from tfllm.data.store import RowStore, default_cache_dir
from tfllm.experiment.build import arguments_of
from tfllm.experiment.model_source import pretrained_tokenizer
from tfllm.tokenizers import ByteBPETokenizer, ByteTokenizer, Tokenizer, load_tokenizer

_SOURCES: dict[str, Any] = {
    "python_docs": PythonDocsSource,
    "text_files": TextFilesSource,
    "jsonl": JsonlSource,
    "tfds": TfdsSource,
    "tfrecord": TfRecordSource,
}


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
    train = _all_rows(rows, "train", source, split=_split(config, "train"))
    held_out = held_out_rows(config, tokenizer, source=source, progress=progress)
    return Prepared(tokenizer, train, held_out)


def held_out_rows(
    config: ExperimentConfig,
    tokenizer: Tokenizer,
    *,
    source: Source | None = None,
    progress: Callable[[str], Callable[[int, int], None]] | None = None,
) -> RowStore | RowMixture:
    """The validation side of `prepare` alone; text to train on is not needed where `data.validation` is given."""
    rows = _rows_of(config, tokenizer, progress)
    if config.data.validation is None and config.data.train is None:
        rule, mend = "is required: this model came without text", "write data.validation.type and .path"
        raise ConfigError([Problem("data.validation", Problem.ABSENT, rule, mend)], "the config")
    if config.data.validation is not None:
        given = make_source(config.data.validation, "data.validation")
        return rows("validation", given, require_full_row=False)
    source, split = source or make_source(config.data.train), _split(config, "validation")
    return _all_rows(rows, "validation", source, split=split, require_rows=False)


def _rows_of(config: ExperimentConfig, tokenizer: Tokenizer, progress: Any) -> Callable[..., RowStore]:
    def rows(name: str, source: Source, **settings: Any) -> RowStore:
        return prepare_rows(
            source=source,
            tokenizer=tokenizer,
            seq_len=config.data.seq_len,
            packing=config.data.packing,
            cache_dir=config.data.cache_dir,
            num_workers=config.data.num_workers,
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
        return MixtureSource(sources, [part.weight for part in config.sources])
    arguments = arguments_of(config, "type")
    if config.type != "python_docs":
        arguments["section"] = section
    return _SOURCES[config.type](**arguments)


def make_tokenizer(config: ExperimentConfig, source: Source) -> Tokenizer:
    """Builds the tokenizer; a trained one is cached.

    It sees training documents only: all, or a sample of `tokenizer.train_megabytes`, of which each source of
    a mixture has the share of its weight.
    """
    section = config.tokenizer
    if section.type == "byte":
        return ByteTokenizer()
    if section.type == "pretrained":
        return pretrained_tokenizer(config)
    if section.path is not None:
        return ByteBPETokenizer.from_file(section.path)
    named = config.data.cache_dir
    cache = expand_home(named, "data.cache_dir") if named else default_cache_dir()
    split = _split(config, "train")
    budget = section.train_megabytes * 1_000_000
    identity = f"byte_bpe 3 {section.vocab_size} {budget} {split} {source.fingerprint()}"
    folder = cache / "tokenizers" / hashlib.sha256(identity.encode()).hexdigest()[:32]
    if not folder.exists():
        trained = ByteBPETokenizer.train(_sample(source, split, budget), vocab_size=section.vocab_size)
        part = folder.with_suffix(f".part{time.time_ns()}")
        trained.save(part)
        try:
            part.rename(folder)
        except OSError:  # another process was first, with the same result
            shutil.rmtree(part)
    return load_tokenizer(folder)


def held_out_documents(config: ExperimentConfig) -> Iterator[str]:
    """Yields the validation documents, as text."""
    if config.data.validation is None:
        return _documents(make_source(config.data.train), _split(config, "validation"))
    return make_source(config.data.validation, "data.validation").documents()


def _split(config: ExperimentConfig, side: str) -> tuple[str, float, int] | None:
    if config.data.validation is not None:
        return None
    return (side, config.data.validation_fraction, config.seed)


def _documents(source: Source, split: tuple[str, float, int] | None) -> Iterator[str]:
    for text in source.documents():
        if split is None or split_of(text, fraction=split[1], seed=split[2]) == split[0]:
            yield text


def _sample(source: Source, split: tuple[str, float, int] | None, budget: int) -> Iterator[str]:
    mixture = source if isinstance(source, MixtureSource) else MixtureSource([source], [1.0])
    for part, weight in zip(mixture.sources, mixture.weights, strict=True):
        share = int(budget * weight / sum(mixture.weights))
        for text in sampled_texts(_documents(part, split), max_bytes=share):
            yield text.decode()
