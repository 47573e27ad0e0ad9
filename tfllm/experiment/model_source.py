"""A model that starts from another: its config, its tokenizer and its weights, of what `model.source` names."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tfllm.config import ConfigError, ExperimentConfig, Problem, config_from_mapping
from tfllm.config.build import to_mapping
from tfllm.config.home import expand_home
from tfllm.experiment.adapter import assign_adapter, read_adapter_for, with_adapter
from tfllm.experiment.origins.kept import opened
from tfllm.experiment.origins.origin import Origin
from tfllm.tokenizers import Tokenizer, TokenizerError
from tfllm.tokenizers.chat import ChatTemplate
from tfllm.tokenizers.chat.ends import turn_ends
from tfllm.tokenizers.files.extension import with_special_tokens


def expand(config: ExperimentConfig) -> ExperimentConfig:
    """Puts the model that `model.source` is in the place of `model: {type: pretrained}`, and `peft.source`'s shape.

    So a run's config says what the model is, and the run can be used where its source is gone; but for a preset of
    KerasHub, which the config goes on to name.

    Raises:
        ConfigError: when what is asked for does not fit the source.
        ConvertError, ModelError, TokenizerError: when the source cannot be read.
    """
    if config.model.type != "pretrained":
        return with_adapter(config)
    asked = config.model
    origin = opened(asked.source)
    origin.check()
    theirs = origin.model_section()
    problems = list(_problems(asked, origin, theirs))
    if problems:
        raise ConfigError(problems, "the config")
    mapping = to_mapping(config)
    own = config.tokenizer.type == "pretrained" and config.tokenizer.source in (None, asked.source)
    if own and not mapping["generation"]["stop_tokens"]:  # texts of this training end where the source's do
        ends = _turn_ends(config) if getattr(config.task, "chats", False) else []
        mapping["generation"]["stop_tokens"] = list(dict.fromkeys([*origin.stop_tokens(), *ends]))
    mapping["model"] = _with_head(_as_asked(theirs, asked), config.task.encoder_keys(to_mapping(config.task)))
    if theirs.get("preset") is None:  # whose tokens are as many as they are
        mapping["model"]["vocab_size"] = _vocab_size(config, theirs)
    if own and theirs["source"] is None:  # which the tokenizer's would stand for
        mapping["tokenizer"]["source"] = asked.source
    return with_adapter(config_from_mapping(mapping, source="the config with its pretrained model"))


def pretrained_tokenizer(config: ExperimentConfig) -> Tokenizer:
    """The tokenizer of a section `tokenizer: {type: pretrained}`, with what it adds.

    Raises:
        ConfigError, ConvertError: when there is no such source.
        TokenizerError: when it has none, or one that is not understood.
    """
    section = config.tokenizer
    tokenizer = opened(section.source or config.model.source).tokenizer
    return with_template(config, with_special_tokens(tokenizer, section.extra_special_tokens))


def with_template(config: ExperimentConfig, tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer with the chat template that the task names, if it does.

    Raises:
        ConfigError: when there is no such file, or it is no template.
    """
    path = getattr(config.task, "template_file", None)
    if path is None:
        return tokenizer
    try:
        source = expand_home(path, "task.template_file").read_text(encoding="utf-8")
        ChatTemplate(source)
    except (OSError, UnicodeDecodeError) as error:
        rule = f"cannot be read ({getattr(error, 'strerror', None) or 'it is not UTF-8'})"
        raise ConfigError(
            [Problem("task.template_file", path, rule, "check the path")], "the config"
        ) from None
    except TokenizerError as error:
        raise ConfigError(
            [Problem("task.template_file", path, f"is no template: {error}")], "the config"
        ) from None
    tokenizer = copy.copy(tokenizer)  # the origin's own is kept for others
    tokenizer.chat_template = source
    return tokenizer


def start_from_source(config: ExperimentConfig, model: Any, *, notify: Callable[[str], None] = print) -> None:
    """Reads the weights of `model.source`, and those of `peft.source`, into a model that was made from the config.

    Raises:
        ConfigError, CheckpointError, ConvertError, ModelError: when there are none, or they are those of another
            model.
    """
    section = config.model
    opened(section.source).fill(model, new_head=getattr(section, "new_head", False), notify=notify)
    adapter = getattr(config.peft, "source", None)
    if adapter is not None:
        assign_adapter(read_adapter_for(config, expand_home(adapter, "peft.source"))[0], model)


def _turn_ends(config: ExperimentConfig) -> list[str]:
    """What ends an answer, beside what ends any text."""
    tokenizer = pretrained_tokenizer(config)
    return [name for name in turn_ends(tokenizer) if tokenizer.special_tokens.get(name) != tokenizer.eos_id]


def _problems(asked: Any, origin: Origin, theirs: dict[str, Any]) -> Iterator[Problem]:
    """What is asked for and the source cannot give."""
    longest, learned = asked.max_seq_len, origin.learned_positions()
    if None not in (longest, learned) and longest > learned:
        rule = f"exceeds the {learned} positions that {asked.source} has learned"
        yield Problem("model.max_seq_len", longest, rule, f"write at most {learned}")
    if asked.pooling is not None and theirs["type"] not in ("encoder", "decoder"):
        rule = f"is for encoders and decoders, and {asked.source} is neither"
        yield Problem("model.pooling", asked.pooling, rule, "leave it out")
    if theirs["type"] != "keras_nlp":
        return
    if asked.new_head:
        rule = (
            f"is not for {asked.source}: a model of KerasHub shares its output layer with the token embedding"
        )
        yield Problem("model.new_head", True, rule, "leave it out")
    if theirs.get("preset") is not None and asked.vocab_size is not None:
        rule = f"is that of {asked.source}"
        yield Problem("model.vocab_size", asked.vocab_size, rule, "leave it out")


def _as_asked(theirs: dict[str, Any], asked: Any) -> dict[str, Any]:
    model = {**theirs, "max_seq_len": asked.max_seq_len or theirs.get("max_seq_len")}
    if model["type"] == "keras_nlp":  # which drops what its backbone drops, where nothing else is asked for
        dropped = {"dropout": asked.dropout} if asked.dropout else {}
        return {**model, "arguments": {**model.get("arguments", {}), **dropped}}
    model.update(new_head=asked.new_head, dropout=asked.dropout)
    if asked.pooling is not None:  # a pooler has learned to read the first token
        model["pooling"] = asked.pooling
    if asked.pooling is not None and "pooler" in model:
        model["pooler"] = model["pooler"] if asked.pooling == "first" else "none"
    return {**model, "tie_embeddings": False} if asked.new_head else model


def _with_head(model: dict[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """An encoder with what its task needs on top, drawn anew where the source has something else, or nothing."""
    if model["type"] != "encoder" or all(
        model[key] == value for key, value in keys.items() if key != "pooler"
    ):
        return model
    pooler = model["pooler"] if model["pooler"] != "none" else keys.get("pooler", "none")
    others = {"num_classes": None, "class_names": None, "new_head": True}
    return {**model, **others, **keys, "pooler": pooler}


def _vocab_size(config: ExperimentConfig, theirs: dict[str, Any]) -> int | None:
    """As many tokens as are asked for, or as the source or its tokenizer has; None is another tokenizer's number."""
    if config.model.vocab_size is not None:
        return config.model.vocab_size
    if config.tokenizer.type != "pretrained":
        return None
    return max(theirs.get("vocab_size") or 0, pretrained_tokenizer(config).vocab_size)
