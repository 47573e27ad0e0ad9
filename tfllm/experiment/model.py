"""A config → the model."""

from __future__ import annotations

from typing import Any

import keras

from tfllm.config import ConfigError, ExperimentConfig, Problem
from tfllm.config.build import to_mapping
from tfllm.experiment.build import arguments_of
from tfllm.experiment.origins.checkpoint import MODEL_TYPES
from tfllm.models.keras_nlp_model import KerasNlpModel
from tfllm.training.precision import dtype_policy

_MODELS: dict[str, Any] = {name: model for model, name in MODEL_TYPES.items()}


def make_model(
    config: ExperimentConfig, vocab_size: int, *, training: bool = False, dtype: str = "float32"
) -> Any:
    """Builds the model with new weights drawn from `config.seed`.

    Args:
        config: The experiment.
        vocab_size: Tokens of the tokenizer; the model may have more, and fewer when not training.
        training: Compute as the training section says, and keep what that does not need.
        dtype: Of weights and arithmetic when not training.

    Raises:
        ConfigError: when a model to be trained has fewer tokens than the tokenizer.
    """
    # A checkpoint's tokenizer may have tokens that its model never had; only learning them needs them there.
    if training and (config.model.vocab_size or vocab_size) < vocab_size:
        rule = f"is less than the {vocab_size} tokens of the tokenizer"
        problem = Problem("model.vocab_size", config.model.vocab_size, rule, f"write at least {vocab_size}")
        raise ConfigError([problem], "the config")
    keras.utils.set_random_seed(config.seed)
    if config.model.type == "keras_nlp":
        return _keras_nlp_model(
            config, vocab_size, dtype_policy(config.training.precision) if training else dtype
        )
    how: dict[str, Any] = {"dtype": keras.DTypePolicy(dtype)}
    if training:
        how = {
            "dtype": dtype_policy(config.training.precision),
            "remat": config.training.remat,
            "attention_block_size": config.training.attention_block_size,
        }
    arguments = arguments_of(config.model, "type", "size", "source", "new_head")
    if "rope_scaling" in arguments:
        arguments["rope_scaling"] = to_mapping(config.model.rope_scaling)
    arguments["vocab_size"] = config.model.vocab_size or vocab_size
    if config.model.max_seq_len is None and getattr(config.model, "positions", None) != "relative":
        arguments["max_seq_len"] = config.context_length
    model = _MODELS[config.model.type](**how, **arguments)
    model.build()
    return model


def _keras_nlp_model(config: ExperimentConfig, vocab_size: int, dtype: Any) -> KerasNlpModel:
    section = config.model
    if config.data.packing:
        rule = "puts several documents in a row, which models of KerasHub cannot tell apart"
        raise ConfigError([Problem("data.packing", True, rule, "write data.packing=false")], "the config")
    arguments = dict(section.arguments)
    if section.backbone is not None:
        arguments["vocabulary_size"] = section.vocab_size or vocab_size
    model = KerasNlpModel(
        preset=section.preset,
        backbone=section.backbone,
        arguments=arguments,
        max_seq_len=config.context_length,
        dtype=dtype,
    )
    for name, value, least in (
        ("data.seq_len", config.data.seq_len, model.max_seq_len),
        ("tokenizer", vocab_size, model.vocab_size),
    ):
        if least is not None and value > least:
            rule = f"exceeds the {least} that {section.preset or section.backbone} has"
            mend = "take the preset's own tokenizer" if name == "tokenizer" else f"write at most {least}"
            raise ConfigError([Problem(name, value, rule, mend)], "the config")
    return model
