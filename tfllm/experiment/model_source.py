"""A pretrained model before it is loaded: a checkpoint of another library with its tokenizer and settings."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from tfllm.config import ConfigError, ExperimentConfig, Problem, config_from_mapping
from tfllm.config.build import to_mapping
from tfllm.config.model import MODELS
from tfllm.convert.assignment import HEAD_LAYERS, RESIZED, assign_weights
from tfllm.convert.checkpoint import Checkpoint, checked_names, read_checkpoint
from tfllm.convert.config_reader import shown
from tfllm.convert.errors import ConvertError
from tfllm.convert.gguf_file import open_gguf
from tfllm.convert.hub import local_path
from tfllm.experiment.run_folder import RunFolder
from tfllm.experiment.stop_tokens import checked_ids, names_of_ids
from tfllm.json_text import read_json
from tfllm.models.decoder import Decoder
from tfllm.models.encoder import Encoder
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.tokenizers import NoTokenizerError, Tokenizer, read_tokenizer
from tfllm.tokenizers.end_of_turn import end_names
from tfllm.tokenizers.files.extension import with_special_tokens
from tfllm.tokenizers.files.gguf import end_token_ids, read_gguf_tokenizer
from tfllm.tokenizers.files.keras_nlp_preset import read_keras_nlp_tokenizer
from tfllm.training.checkpoint import restore_model

# What a config calls each of our models.
MODEL_TYPES: dict[type, str] = {Decoder: "decoder", Encoder: "encoder", EncoderDecoder: "encoder_decoder"}
KERAS_NLP = "keras_nlp://"
_CONFIG_FILE, _GENERATION_FILE = "config.json", "generation_config.json"
# What transformers samples with where a checkpoint says that it is to be sampled from, and no more.
_SAMPLED = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}
# What generation_config.json says besides: of how the file came to be, or what is known from elsewhere.
_ABOUT_GENERATION = (
    *(
        "_from_model_config",
        "transformers_version",
        "use_cache",
        "cache_implementation",
        "do_sample",
        "eos_token_id",
    ),
    *("bos_token_id", "pad_token_id", "decoder_start_token_id", "max_new_tokens", "repetition_penalty"),
)
# A run's positions are as many as it learned; its tokens may be more or less in another run.
_MORE_TOKENS = {path: fit for path, fit in RESIZED.items() if not path.startswith("position_")}
_NO_EFFECT: tuple[Any, ...] = (None, False, 0, 1, 1.0, [], {})


class Pretrained:
    """A checkpoint of another library.

    Args:
        source: A folder of transformers, a `.gguf` file, or `hf://org/name`.

    Raises:
        ConvertError: when there is no such checkpoint, or it is not understood.
    """

    def __init__(self, source: str | Path):
        self.source = str(source)
        self.path = local_path(source)
        self.checkpoint: Checkpoint = read_checkpoint(self.path)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer; TokenizerError where it has none, or one that is not understood."""
        return tokenizer_of(self.path)

    def config(self) -> ExperimentConfig:
        """What a run's config would say of it, without text to train on."""
        arguments = self.checkpoint.arguments
        longest = arguments["max_seq_len"] or 512  # T5, which has no limit, was trained on rows of 512
        generation = self.generation()
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

    def notes(self) -> list[str]:
        """What was not taken over from its config and generation settings, and why."""
        known = (*_SAMPLED, *_ABOUT_GENERATION)
        left = {
            k: v for k, v in self._json(_GENERATION_FILE).items() if k not in known and v not in _NO_EFFECT
        }
        words = "concerns generation and is not implemented; it was left aside"
        return [
            *self.checkpoint.notes,
            *(f"{_GENERATION_FILE}: {k[:200]}={shown(v)} {words}" for k, v in [*left.items()][:50]),
        ]

    def model_section(self) -> dict[str, Any]:
        """The `model` section that describes it."""
        kind = MODEL_TYPES[self.checkpoint.family.kind.model]
        known = {field.name for field in dataclasses.fields(cast(Any, MODELS.get(kind)))}
        arguments = {k: v for k, v in self.checkpoint.arguments.items() if v is not None}
        assert arguments.keys() <= known, arguments.keys() - known
        return {"type": kind, "source": self.source, **arguments}

    def generation(self) -> dict[str, Any]:
        """The `generation` section that `generation_config.json` amounts to.

        As in transformers, the likeliest token is taken unless the file says to sample.

        Raises:
            ConvertError: when the file is damaged.
        """
        found = self._json(_GENERATION_FILE)
        for name in ("temperature", "top_k", "top_p", "max_new_tokens", "repetition_penalty"):
            value = found.get(name)
            if value is not None and (type(value) not in (int, float) or not abs(value) < math.inf):
                raise ConvertError(f"{self.path / _GENERATION_FILE}: {name}={shown(value)} must be a number")
        section: dict[str, Any] = {"temperature": 0.0, "top_p": 1.0}
        if found.get("do_sample"):
            section = {**_SAMPLED, **{k: found[k] for k in _SAMPLED if found.get(k) is not None}}
        for name in ("max_new_tokens", "repetition_penalty"):
            if found.get(name) is not None:
                section[name] = found[name]
        section["stop_tokens"] = self.stop_tokens()
        return section

    def stop_tokens(self) -> list[str]:
        """Names of the tokens that end a text, beside the tokenizer's own.

        Those that its files say; where they say none, and in GGUF files besides, those whose names say so.

        Raises:
            ConvertError: when a file is damaged, or gives what is no id.
        """
        if self.checkpoint.family.kind.model is Encoder:
            return []
        try:
            tokenizer = self.tokenizer
        except NoTokenizerError:
            return names_of_ids(None, self._end_ids())
        ids = self._end_ids()
        return names_of_ids(tokenizer, [i for i in ids if i < tokenizer.vocab_size and i != tokenizer.eos_id])

    def _end_ids(self) -> list[int]:
        if self.path.suffix == ".gguf":
            file = open_gguf(self.path)
            return end_token_ids(file.metadata, file.list_of)
        for name in (_GENERATION_FILE, _CONFIG_FILE):
            found = self._json(name, "eos_token_id")
            if found.get("eos_token_id") is not None:
                return checked_ids(self.path / name, found["eos_token_id"], self._known_ids())
        try:
            tokenizer = self.tokenizer
        except NoTokenizerError:
            return []
        known = {token.content: token.id for token in tokenizer.added_tokens}
        own = (tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id)
        return [known[name] for name in end_names(known) if known[name] not in own]

    def _known_ids(self) -> int:
        """Ids that the model or its tokenizer knows; either may have more than the other."""
        size = int(self.checkpoint.arguments["vocab_size"])
        try:
            return max(size, self.tokenizer.vocab_size)
        except NoTokenizerError:
            return size

    def _json(self, name: str, *keys: str) -> dict[str, Any]:
        path = self.path / name
        if not path.is_file():
            return {}
        try:
            mapping = read_json(path)
        except (OSError, ValueError) as error:
            raise ConvertError(f"{path} is not a JSON file ({error}); download it again") from None
        if not isinstance(mapping, dict):
            raise ConvertError(f"{path} must hold a mapping, not {type(mapping).__name__}; download it again")
        return {key: mapping[key] for key in keys if key in mapping} if keys else mapping


def tokenizer_at(source: str | Path) -> Tokenizer:
    """The tokenizer of whatever `tfllm.load` takes, or in a folder of its own.

    Raises:
        ConvertError: when a handle cannot be reached.
        TokenizerError: when there is none, or it is not understood.
    """
    preset = keras_nlp_preset(source)
    return tokenizer_of(local_path(source)) if preset is None else read_keras_nlp_tokenizer(preset)


def keras_nlp_preset(source: str | Path) -> str | None:
    """The preset that `keras_nlp://preset` names, or None."""
    return str(source).removeprefix(KERAS_NLP) if str(source).startswith(KERAS_NLP) else None


def config_of_preset(source: str, max_seq_len: int | None) -> ExperimentConfig:
    """What a run's config would say of a preset of KerasHub, without text to train on."""
    preset = str(keras_nlp_preset(source))
    longest = max_seq_len or 512
    mapping = {
        "name": re.sub(r"[^\w.-]+", "-", Path(preset).name).lstrip(".-") or "preset",
        "tokenizer": {"type": "pretrained", "source": source},
        "model": {"type": "keras_nlp", "preset": preset, "max_seq_len": max_seq_len},
        "data": {"seq_len": max(2, min(256, longest)), "packing": False},
        "generation": {"max_new_tokens": max(1, min(64, longest - 1)), "temperature": 0.0, "top_p": 1.0},
    }
    return config_from_mapping(mapping, for_training=False)


def tokenizer_of(path: Path) -> Tokenizer:
    """The tokenizer of a checkpoint, of a run, or in a folder of its own.

    Raises:
        TokenizerError: when there is none, or it is not understood.
    """
    if path.suffix == ".gguf":
        file = open_gguf(path)
        return read_gguf_tokenizer(file.metadata, file.list_of, path)
    return read_tokenizer(RunFolder(path).tokenizer if is_run(path) else path)


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    return RunFolder(path).exists


def expand(config: ExperimentConfig) -> ExperimentConfig:
    """Puts the model that `model.source` is in the place of `model: {type: pretrained}`.

    So a run's config says what the model is, and the run can be used where its source is gone.

    Raises:
        ConfigError: when what is asked for does not fit the source.
        ConvertError, TokenizerError: when the source cannot be read.
    """
    if config.model.type != "pretrained":
        return config
    asked = config.model
    path = local_path(asked.source)
    there = RunFolder(path).load_config() if is_run(path) else Pretrained(asked.source)
    model = dict(_run_model(there) if isinstance(there, ExperimentConfig) else _section_of_whole(there))
    longest = asked.max_seq_len
    if longest is not None and model.get("positions") == "learned" and longest > model["max_seq_len"]:
        rule = f"exceeds the {model['max_seq_len']} positions that {asked.source} has learned"
        mend = f"write at most {model['max_seq_len']}"
        raise ConfigError([Problem("model.max_seq_len", longest, rule, mend)], "the config")
    model.update(source=asked.source, new_head=asked.new_head, dropout=asked.dropout)
    model["max_seq_len"] = longest or model.get("max_seq_len")
    if asked.new_head:
        model["tie_embeddings"] = False
    generation = to_mapping(config.generation)
    own = config.tokenizer.type == "pretrained" and config.tokenizer.source in (None, asked.source)
    if own and not generation["stop_tokens"]:  # texts of this training end where the source's do
        found = there.generation.stop_tokens if isinstance(there, ExperimentConfig) else there.stop_tokens()
        generation["stop_tokens"] = list(found)
    if asked.vocab_size is not None:
        model["vocab_size"] = asked.vocab_size
    elif config.tokenizer.type == "pretrained":
        made = there.tokenizer if own and isinstance(there, Pretrained) else None
        size = pretrained_tokenizer(config, made).vocab_size
        model["vocab_size"] = max(model.get("vocab_size") or 0, size)
    else:
        model["vocab_size"] = None
    return config_from_mapping(
        {**to_mapping(config), "model": model, "generation": generation},
        source="the config with its pretrained model",
    )


def _section_of_whole(pretrained: Pretrained) -> dict[str, Any]:
    """The model of a checkpoint whose files hold what its config says, which is asked before a model is made."""
    checked_names(pretrained.checkpoint, pretrained.checkpoint.open_tensors())
    return pretrained.model_section()


def pretrained_tokenizer(config: ExperimentConfig, made: Tokenizer | None = None) -> Tokenizer:
    """The tokenizer of a section `tokenizer: {type: pretrained}`, with what it adds; `made` without, where it is read.

    Raises:
        TokenizerError: when there is none, or it is not understood.
    """
    section = config.tokenizer
    tokenizer = made or tokenizer_at(section.source or config.model.source)
    return with_special_tokens(tokenizer, section.extra_special_tokens)


def start_from_source(config: ExperimentConfig, model: Any, *, notify: Callable[[str], None] = print) -> None:
    """Reads the weights of `model.source` into a model that was made from the config.

    Raises:
        CheckpointError, ConvertError: when there are none, or they are those of another model.
    """
    section = config.model
    path = local_path(section.source)
    if is_run(path):
        leave = HEAD_LAYERS if getattr(section, "new_head", False) else ()
        restore_model(RunFolder(path).checkpoints, model, leave=leave, resize=_MORE_TOKENS, notify=notify)
    else:
        assign_weights(read_checkpoint(path), model, new_head=section.new_head)


def _run_model(config: ExperimentConfig) -> Mapping[str, Any]:
    section = to_mapping(config.model)
    return {**section, "max_seq_len": config.context_length}
