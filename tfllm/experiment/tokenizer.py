"""A config → the tokenizer: made, read, or trained and kept for the next time."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tfllm.config import ExperimentConfig
from tfllm.config.home import expand_home
from tfllm.data.sample import sampled_texts
from tfllm.data.sources import MixtureSource, Source
from tfllm.data.split import Split
from tfllm.data.store import default_cache_dir
from tfllm.experiment.build import build
from tfllm.experiment.model_source import pretrained_tokenizer, with_template
from tfllm.experiment.source import documents_of, split_side
from tfllm.tokenizers import (
    ByteBPETokenizer,
    ByteTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    WordPieceTokenizer,
    read_tokenizer,
)
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

    @property
    def roles(self) -> dict[str, str]:
        """The special tokens that the task needs of a tokenizer that is learned for it, by role."""
        special = self.config.task.special_tokens
        return {role: name for role, name in special.items() if role != "extra_special_tokens"}

    @property
    def needs(self) -> dict[str, Any]:
        """Further special tokens, and what stands around a text for the kind of model that will read it."""
        frame = {"encoder": "bos_eos", "encoder_decoder": "eos"}.get(self.config.kind, "bos")
        others = tuple(self.config.task.special_tokens.get("extra_special_tokens", ()))
        return {"extra_special_tokens": others, "frame": frame}


def make_tokenizer(config: ExperimentConfig, source: Source | None) -> Tokenizer:
    """Builds the tokenizer; a trained one is cached."""
    return with_template(
        config, build(config.tokenizer, at="tokenizer", surroundings=Surroundings(config, source))
    )


def byte(*, surroundings: Surroundings) -> Tokenizer:
    """One token a byte."""
    del surroundings
    return ByteTokenizer()


def byte_bpe(
    *, vocab_size: int, path: str | None, train_megabytes: int, surroundings: Surroundings
) -> Tokenizer:
    """One that is read from a file, or learned."""
    if path is not None:
        return read_byte_bpe(path)
    needs = {"other_roles": surroundings.roles, **surroundings.needs}

    def learn(texts: Iterator[str]) -> Tokenizer:
        return ByteBPETokenizer.train(texts, vocab_size=vocab_size, **needs)

    return _learned(learn, f"byte_bpe 4 {vocab_size} {needs}", train_megabytes, surroundings)


def wordpiece(
    *, vocab_size: int, lowercase: bool, train_megabytes: int, surroundings: Surroundings
) -> Tokenizer:
    """One that is learned; it has a token for every role."""

    def learn(texts: Iterator[str]) -> Tokenizer:
        return WordPieceTokenizer.train(
            texts, vocab_size=vocab_size, lowercase=lowercase, **surroundings.needs
        )

    rules = f"wordpiece 1 {vocab_size} {lowercase} {surroundings.needs}"
    return _learned(learn, rules, train_megabytes, surroundings)


def sentencepiece(
    *, vocab_size: int, algorithm: str, train_megabytes: int, surroundings: Surroundings
) -> Tokenizer:
    """One that is learned."""
    needs = {"other_roles": surroundings.roles, **surroundings.needs}

    def learn(texts: Iterator[str]) -> Tokenizer:
        return SentencePieceTokenizer.train(texts, vocab_size=vocab_size, algorithm=algorithm, **needs)

    return _learned(learn, f"sentencepiece 1 {algorithm} {vocab_size} {needs}", train_megabytes, surroundings)


def pretrained(*, surroundings: Surroundings, **keys: Any) -> Tokenizer:
    """That of a checkpoint, with what the section adds."""
    del keys  # it stands for the model's where it names no source, so all of the config is asked
    return pretrained_tokenizer(surroundings.config)


def _learned(
    learn: Callable[[Iterator[str]], Tokenizer], rules: str, train_megabytes: int, surroundings: Surroundings
) -> Tokenizer:
    """One of the training documents, or the one that was learned of them before.

    It sees training documents only: all, or a sample of `train_megabytes`, of which each source of a mixture has the
    share of its weight.

    Args:
        learn: Texts -> a tokenizer.
        rules: What it depends on beside the text, in words.
        train_megabytes: Text to learn from.
        surroundings: The experiment, and its text.
    """
    config, source = surroundings.config, surroundings.source
    assert source is not None, "a training has text"
    named = config.data.cache_dir
    cache = expand_home(named, "data.cache_dir") if named else default_cache_dir()
    split = split_side(config, "train")
    budget, columns = train_megabytes * 1_000_000, config.task.text_columns
    identity = f"{rules} {budget} {split and split.key} {columns} {source.fingerprint()}"
    folder = cache / "tokenizers" / hashlib.sha256(identity.encode()).hexdigest()[:32]
    if not folder.exists():
        learned = learn(_sample(source, split, budget, columns))
        part = folder.with_suffix(f".part{time.time_ns()}")
        learned.save(part)
        try:
            part.rename(folder)
        except OSError:  # another process was first, with the same result
            shutil.rmtree(part)
    return read_tokenizer(folder)


def _sample(source: Source, split: Split | None, budget: int, columns: Sequence[str]) -> Iterator[str]:
    mixture = source if isinstance(source, MixtureSource) else MixtureSource([source], [1.0])
    for part, weight in zip(mixture.sources, mixture.weights, strict=True):
        share = int(budget * weight / sum(mixture.weights))
        for text in sampled_texts(documents_of(part, split, columns), max_bytes=share):
            yield text.decode()
