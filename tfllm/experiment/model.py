"""A config → the model."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from tfllm.config import ConfigError, ExperimentConfig, Problem
from tfllm.experiment.build import build, builder_of
from tfllm.layers.stored_kernel import KernelPolicy
from tfllm.models.keras_nlp_model import KerasNlpModel
from tfllm.peft.lora import copy_merged
from tfllm.training.precision import dtype_policy

# Keys of a model that say where it starts from, and not what it is.
_NOT_ITS_OWN = ("size", "source", "new_head")


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
        ConfigError: when a model to be trained is too small for tokenizer or rows, or cannot compute as asked.
    """
    section = config.model
    # A checkpoint's tokenizer may have tokens that its model never had; only learning them needs them there.
    if training and (section.vocab_size or vocab_size) < vocab_size:
        rule = f"is less than the {vocab_size} tokens of the tokenizer"
        problem = Problem("model.vocab_size", section.vocab_size, rule, f"write at least {vocab_size}")
        raise ConfigError([problem], "the config")
    # Relative positions set no limit, where the model can do without one.
    limit = _parameters(config).get("max_seq_len")
    optional = limit is not None and limit.default is None
    unlimited = optional and getattr(section, "positions", None) == "relative"
    keras.utils.set_random_seed(config.seed)
    model = build(
        section,
        at="model",
        without=_NOT_ITS_OWN,
        vocab_size=section.vocab_size or vocab_size,
        max_seq_len=section.max_seq_len if unlimited else config.context_length,
        dtype=_training_policy(config) if training else keras.DTypePolicy(dtype),
        **(_savings(config) if training else {}),
    )
    model.build()
    if config.peft is not None:
        peft_method(config).attach(model, with_head=bool(getattr(section, "new_head", False)))
    problems = list(_too_small(config, model, vocab_size)) if training else []
    if problems:
        raise ConfigError(problems, "the config")
    return model


def _training_policy(config: ExperimentConfig) -> keras.DTypePolicy:
    precision, stored = config.training.precision, getattr(config.peft, "base_dtype", "float32")
    return dtype_policy(precision) if stored == "float32" else KernelPolicy(precision, stored)


def peft_method(config: ExperimentConfig) -> Any:
    """What changes a built model as `config.peft` says, by its `attach`."""
    return build(config.peft, at="peft", without=("source", "base_dtype"))


def rank_allocator(config: ExperimentConfig, model: Any) -> Any:
    """What changes the ranks of a model from `make_model` while it is trained; None where nothing does."""
    allocator = None if config.peft is None else getattr(peft_method(config), "allocator", None)
    return None if allocator is None else allocator(model, config.training.steps)


def merged(model: Any, config: ExperimentConfig) -> Any:
    """A model with what stands beside its matrices added to them.

    Args:
        model: From `make_model`.
        config: The experiment.
    """
    plain = make_model(
        dataclasses.replace(config, peft=None), model.vocab_size, dtype=model.dtype_policy.variable_dtype
    )
    copy_merged(model, plain)
    return plain


def keras_nlp_model(
    *,
    preset: str | None,
    backbone: str | None,
    arguments: Mapping[str, Any],
    vocab_size: int,
    max_seq_len: int | None,
    dtype: keras.DTypePolicy,
) -> KerasNlpModel:
    """A model of KerasHub; a backbone gets a vocabulary of that size, a preset has its own."""
    sizes = {} if backbone is None else {"vocabulary_size": vocab_size}
    return KerasNlpModel(
        preset=preset,
        backbone=backbone,
        arguments={**arguments, **sizes},
        max_seq_len=max_seq_len,
        dtype=dtype,
    )


def _parameters(config: ExperimentConfig) -> Mapping[str, inspect.Parameter]:
    """What the builder of the model takes."""
    builder = builder_of(config.model, "model")
    return inspect.signature(builder.__init__ if inspect.isclass(builder) else builder).parameters


def _savings(config: ExperimentConfig) -> dict[str, Any]:
    """What the training section asks of the model beside its type of numbers: to keep less in memory."""
    training = config.training
    asked = {
        "remat": None if training.remat == "none" else training.remat,
        "attention_block_size": training.attention_block_size,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    known = _parameters(config)
    rule = f"is nothing that model.type={config.model.type} can do"
    problems = [Problem(f"training.{k}", v, rule, "leave it out") for k, v in asked.items() if k not in known]
    if "attention_block_size" in asked and getattr(config.model, "positions", None) == "relative":
        rule = "keeps no table of scores, to which model.positions=relative adds"
        problems.append(
            Problem("training.attention_block_size", training.attention_block_size, rule, "leave it out")
        )
    if problems:
        raise ConfigError(problems, "the config")
    return asked


def _too_small(config: ExperimentConfig, model: Any, vocab_size: int) -> Iterator[Problem]:
    """What a model brings by itself, such as a preset, may be less than what the config lets it have."""
    for name, value, least, mend in (
        ("data.seq_len", config.data.seq_len, model.max_seq_len, f"write at most {model.max_seq_len}"),
        ("tokenizer", vocab_size, model.vocab_size, "take the model's own tokenizer"),
    ):
        if least is not None and value > least:
            yield Problem(name, value, f"exceeds the {least} that model.type={config.model.type} has", mend)
