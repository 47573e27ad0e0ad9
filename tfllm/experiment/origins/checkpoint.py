"""A model in a checkpoint of another library: a folder of transformers, or a GGUF file."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from tfllm.config import ConfigError, ExperimentConfig, Problem, config_from_mapping
from tfllm.config.model import MODELS
from tfllm.convert.assignment import assign_weights
from tfllm.convert.checkpoint import (
    CONFIG_FILE,
    Checkpoint,
    checked_names,
    checkpoint_of_gguf,
    load_model,
    read_checkpoint,
)
from tfllm.convert.generation_config import GenerationFile, end_ids
from tfllm.convert.gguf_file import GgufFile
from tfllm.convert.sentence_modules import SentenceModules, read_sentence_modules, transformer_folder
from tfllm.convert.summary import Section, summary
from tfllm.experiment.run_folder import RunFolder
from tfllm.experiment.stop_tokens import names_of_ids
from tfllm.models.decoder import Decoder
from tfllm.models.encoder import Encoder
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.tokenizers import NoTokenizerError, Tokenizer, read_tokenizer
from tfllm.tokenizers.end_of_turn import end_names
from tfllm.tokenizers.files.gguf import end_token_ids, read_gguf_tokenizer

# What a config calls each of our models.
MODEL_TYPES: dict[type, str] = {Decoder: "decoder", Encoder: "encoder", EncoderDecoder: "encoder_decoder"}
_STORED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LONGEST = 512  # of T5, which has no limit, and was trained on rows of 512


class CheckpointOrigin:
    """A checkpoint of another library; also a folder with a tokenizer alone, which is all that it then has.

    Args:
        source: What it was called by.
        path: The folder, or the `.gguf` file.
    """

    run_folder: RunFolder | None = None

    def __init__(self, source: str, path: Path):
        self.source, self.path = source, path

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """What its files say of the model.

        Raises:
            ConfigError: when the folder holds no checkpoint.
            ConvertError: when it is damaged or not understood.
        """
        if self._gguf is not None:
            return checkpoint_of_gguf(self._gguf)
        if not (self._folder / CONFIG_FILE).exists():
            rule = "holds neither config.yaml, as runs do, nor config.json, as checkpoints do"
            mend = "give the folder of a run, e.g. runs/quickstart, or a checkpoint"
            raise ConfigError([Problem(str(self._folder), Problem.ABSENT, rule, mend)], "the model")
        return read_checkpoint(self._folder)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer; NoTokenizerError where it has none."""
        if self._gguf is not None:
            return read_gguf_tokenizer(self._gguf.metadata, self._gguf.list_of, self.path)
        return read_tokenizer(self._folder)

    @property
    def stored_dtype(self) -> str:
        """The type of most matrices; float32 for quantized ones."""
        sizes: Counter[str] = Counter()
        tensors = self.checkpoint.open_tensors()
        for name, kind in tensors.types.items():
            sizes[_STORED.get(kind, "float32")] += 1 if len(tensors.shapes[name]) > 1 else 0
        return sizes.most_common(1)[0][0] if sizes else "float32"

    def config(self) -> ExperimentConfig:
        """What a run's config would say of it, without text to train on."""
        longest = self.checkpoint.arguments["max_seq_len"] or _LONGEST
        generation = {**self._generation.section(), "stop_tokens": self.stop_tokens()}
        generation["max_new_tokens"] = min(generation.get("max_new_tokens", 64), max(1, longest - 1))
        handle = re.sub(r"^hf:/|@.*$", "", self.source) if self.source.startswith("hf://") else None
        place = Path(handle) if handle else self.path.resolve()
        name = re.sub(r"[^\w.-]+", "-", place.name.removesuffix(".gguf")).lstrip(".-")
        mapping = {
            "name": name or "model",
            "tokenizer": {"type": "pretrained", "source": self.source},
            "model": self.model_section(),
            "data": {"seq_len": max(2, min(256, longest))},
            "generation": generation,
        }
        return config_from_mapping(mapping, for_training=False)

    def model_section(self) -> dict[str, Any]:
        """The `model` section of a config that starts from it."""
        kind = MODEL_TYPES[self.checkpoint.family.kind.model]
        known = {field.name for field in dataclasses.fields(cast(Any, MODELS.get(kind)))}
        arguments = {k: v for k, v in self.checkpoint.arguments.items() if v is not None}
        assert arguments.keys() <= known, arguments.keys() - known
        return {"type": kind, "source": self.source, **arguments}

    def learned_positions(self) -> int | None:
        """The rows of its table of positions, where it has one."""
        arguments = self.checkpoint.arguments
        return arguments["max_seq_len"] if arguments.get("positions") == "learned" else None

    def stop_tokens(self) -> list[str]:
        """Names of the tokens that end a text, beside the tokenizer's own.

        Those that its files say; where they say none, and in GGUF files besides, those whose names say so.
        """
        if self.checkpoint.family.kind.model is Encoder:
            return []
        try:
            tokenizer = self.tokenizer
        except NoTokenizerError:
            return names_of_ids(None, self._end_ids(None))
        ids = self._end_ids(tokenizer)
        return names_of_ids(tokenizer, [i for i in ids if i < tokenizer.vocab_size and i != tokenizer.eos_id])

    def sentence_modules(self) -> SentenceModules | None:
        """What a folder of sentence-transformers says."""
        return read_sentence_modules(self.path)

    def notes(self) -> list[str]:
        """What was not taken over from its config and generation settings, and why."""
        return [*self.checkpoint.notes, *self._generation.notes()]

    def check(self) -> None:
        """Raises where its files do not hold what its config says."""
        checked_names(self.checkpoint, self.checkpoint.open_tensors())

    def load(self, dtype: str, *, notify: Callable[[str], None]) -> tuple[Any, int]:
        """The model, and no updates."""
        del notify  # nothing is passed over
        return load_model(self.checkpoint, dtype=dtype), 0

    def fill(self, model: Any, *, new_head: bool, notify: Callable[[str], None]) -> None:
        """Reads the weights into a model; more tokens than the checkpoint has begin as the mean of the others."""
        del notify
        assign_weights(self.checkpoint, model, new_head=new_head)

    def summary(self) -> list[Section]:
        """Family, sizes, parameters, memory, and what was not understood."""
        return summary(self.checkpoint)

    @cached_property
    def _gguf(self) -> GgufFile | None:
        return GgufFile(self.path) if self.path.suffix == ".gguf" else None

    @cached_property
    def _folder(self) -> Path:
        return transformer_folder(self.path)

    @cached_property
    def _generation(self) -> GenerationFile:
        return GenerationFile(self._folder)

    def _end_ids(self, tokenizer: Tokenizer | None) -> list[int]:
        if self._gguf is not None:
            return end_token_ids(self._gguf.metadata, self._gguf.list_of)
        size = int(self.checkpoint.arguments["vocab_size"])  # either may have more tokens than the other
        size = size if tokenizer is None else max(size, tokenizer.vocab_size)
        ids = self._generation.end_ids(size)
        if ids is None:
            ids = end_ids(self._folder / CONFIG_FILE, self.checkpoint.config, size)
        if ids is not None or tokenizer is None:
            return ids or []
        known = {token.content: token.id for token in tokenizer.added_tokens}
        own = (tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id)
        return [known[name] for name in end_names(known) if known[name] not in own]
