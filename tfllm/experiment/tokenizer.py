"""A config → the tokenizer: made, read, or trained and kept for the next time."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import time
from collections.abc import Iterator
from typing import Any

from tfllm.config import ExperimentConfig
from tfllm.config.home import expand_home
from tfllm.data.sample import sampled_texts
from tfllm.data.sources import MixtureSource, Source
from tfllm.data.store import default_cache_dir
from tfllm.experiment.build import build
from tfllm.experiment.model_source import pretrained_tokenizer
from tfllm.experiment.source import documents_of, split_side
from tfllm.tokenizers import ByteBPETokenizer, ByteTokenizer, Tokenizer, read_tokenizer
from tfllm.tokenizers.files.byte_bpe_files import read_byte_bpe


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What the builder of a tokenizer is given beside the keys of its section.

    Args:
        config: The experiment.
        source: The text to train on; None where there is none.
    """

    config: ExperimentConfig
    source: Source | None


def make_tokenizer(config: ExperimentConfig, source: Source | None) -> Tokenizer:
    """Builds the tokenizer; a trained one is cached."""
    return build(config.tokenizer, at="tokenizer", surroundings=Surroundings(config, source))


def byte(*, surroundings: Surroundings) -> Tokenizer:
    """One token a byte."""
    del surroundings
    return ByteTokenizer()


def byte_bpe(
    *, vocab_size: int, path: str | None, train_megabytes: int, surroundings: Surroundings
) -> Tokenizer:
    """One that is read from a file, or trained.

    It sees training documents only: all, or a sample of `train_megabytes`, of which each source of a mixture has the
    share of its weight.
    """
    if path is not None:
        return read_byte_bpe(path)
    config, source = surroundings.config, surroundings.source
    assert source is not None, "a training has text"
    named = config.data.cache_dir
    cache = expand_home(named, "data.cache_dir") if named else default_cache_dir()
    split = split_side(config, "train")
    budget = train_megabytes * 1_000_000
    roles = dict(config.task.special_tokens)
    identity = f"byte_bpe 3 {vocab_size} {budget} {split} {source.fingerprint()}"
    identity += f" {sorted(roles.items())}" if roles else ""
    folder = cache / "tokenizers" / hashlib.sha256(identity.encode()).hexdigest()[:32]
    if not folder.exists():
        texts = _sample(source, split, budget)
        trained = ByteBPETokenizer.train(texts, vocab_size=vocab_size, other_roles=roles)
        part = folder.with_suffix(f".part{time.time_ns()}")
        trained.save(part)
        try:
            part.rename(folder)
        except OSError:  # another process was first, with the same result
            shutil.rmtree(part)
    return read_tokenizer(folder)


def pretrained(*, surroundings: Surroundings, **keys: Any) -> Tokenizer:
    """That of a checkpoint, with what the section adds."""
    del keys  # it stands for the model's where it names no source, so all of the config is asked
    return pretrained_tokenizer(surroundings.config)


def _sample(source: Source, split: tuple[str, float, int] | None, budget: int) -> Iterator[str]:
    mixture = source if isinstance(source, MixtureSource) else MixtureSource([source], [1.0])
    for part, weight in zip(mixture.sources, mixture.weights, strict=True):
        share = int(budget * weight / sum(mixture.weights))
        for text in sampled_texts(documents_of(part, split), max_bytes=share):
            yield text.decode()
