"""A config → what works on the model: task, evaluator, generator, optimizer."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfllm.config import ExperimentConfig
from tfllm.config.optimizer import OptimizerConfig
from tfllm.data.mixture import RowMixture
from tfllm.data.pipeline import evaluation_batches
from tfllm.data.store import RowStore
from tfllm.evaluation.evaluator import Evaluator
from tfllm.evaluation.predictions import Prediction
from tfllm.experiment.build import arguments_of, build
from tfllm.experiment.source import held_out_records
from tfllm.experiment.stop_tokens import stop_ids
from tfllm.experiment.writing import writer
from tfllm.generation.generate import Generator
from tfllm.tokenizers import Tokenizer
from tfllm.training.distribution import shares_of
from tfllm.training.optimizers import Optimizer, make_optimizer
from tfllm.training.parameter_groups import ParameterGroup
from tfllm.training.update_rules import Rules


def make_task(config: ExperimentConfig, tokenizer: Tokenizer) -> Any:
    """Builds the task; one of encoder-decoders is told what the decoder starts from, one of classes their names."""
    more: dict[str, Any] = {}
    if getattr(config.task, "too_long", ()):
        more["on_too_long"] = config.data.on_too_long
    if config.kind == "encoder_decoder":
        more["decoder_start_id"] = config.model.decoder_start_id
    if config.task.labels in ("classes", "tags"):
        more["class_names"] = config.model.class_names
    if config.task.labels in ("classes", "numbers", "answers"):
        types = getattr(config.model, "num_token_types", 2)  # a plug-in may not say
        more["token_types"] = config.kind == "encoder" and types > 1
    return build(
        config.task,
        at="task",
        without=("template_file",) if getattr(config.task, "chats", False) else (),  # the tokenizer has it
        tokenizer=tokenizer,
        loss_chunk_tokens=config.training.loss_chunk_tokens,
        **more,
    )


def make_evaluator(
    config: ExperimentConfig,
    model: Any,
    task: Any,
    rows: RowStore | RowMixture,
    *,
    tokenizer: Tokenizer | None = None,
    side: str = "validation",
    strategy: tf.distribute.Strategy | None = None,
    averaged: Any = contextlib.nullcontext,
) -> Evaluator:
    """Builds the evaluator of a side of the text.

    Args:
        config: The experiment.
        model: The model.
        task: The task.
        rows: The rows of the side.
        tokenizer: Of tasks that write texts while evaluating.
        side: validation or test.
        strategy: The strategy that the model was made under; None is one device.
        averaged: Makes the context in which the model holds the weights to evaluate.
    """
    strategy = strategy or tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    microbatch = config.training.microbatch_size
    size = microbatch * replicas if microbatch else config.training.global_batch_size

    def of_rows(**shares: Any) -> tf.data.Dataset:
        return evaluation_batches(
            rows, batch_size=size, transform=task.features, aligned=task.aligned, **shares
        )

    def batches() -> Any:
        def of_pipeline(context: tf.distribute.InputContext) -> tf.data.Dataset:
            shares = shares_of(context, strategy)
            return of_rows(num_shares=replicas, shares=shares)

        if replicas == 1:
            return of_rows()
        return strategy.distribute_datasets_from_function(of_pipeline)

    return Evaluator(
        model=model,
        task=task,
        batches=batches,
        strategy=strategy,
        averaged=averaged,
        jit_compile=config.training.jit_compile,
        records=functools.partial(held_out_records, config, side)
        if getattr(task, "reads_records", False)
        else None,
        write=_write(config, model, task, tokenizer, side, strategy),
        metrics=config.evaluation.metrics,
    )


def _write(
    config: ExperimentConfig,
    model: Any,
    task: Any,
    tokenizer: Tokenizer | None,
    side: str,
    strategy: tf.distribute.Strategy,
) -> Callable[[], list[Prediction]] | None:
    """What writes texts while evaluating, where a metric is of texts."""
    asked = config.evaluation.metrics
    if not getattr(config.task, "writes", False) or (asked and not set(asked) & set(task.of_examples)):
        return None
    assert tokenizer is not None, "texts are written with a tokenizer"
    return writer(config, model, tokenizer, task, side, strategy)


def make_generator(
    model: Any, tokenizer: Tokenizer | None, stop_tokens: Sequence[str] = (), *, jit_compile: bool = True
) -> Generator:
    """Builds a generator that stops at the end of a document, and chooses no token that the tokenizer lacks."""
    return Generator(
        model,
        stop_ids=stop_ids(tokenizer, stop_tokens),
        pad_id=0 if tokenizer is None else tokenizer.pad_id,
        num_tokens=None if tokenizer is None else tokenizer.vocab_size,
        jit_compile=jit_compile,
        label=None if tokenizer is None else tokenizer.token_label,
    )


def make_optimizer_of(config: ExperimentConfig, model: Any) -> Optimizer:
    """Builds the optimizer; call under the strategy's scope."""
    section = config.optimizer
    course = build(
        section.schedule,
        at="optimizer.schedule",
        peak=section.learning_rate,
        total_steps=config.training.steps,
    )
    return make_optimizer(  # clipping and skipping are the train step's
        make_rule(config),
        learning_rate=course,
        variables=model.trainable_variables,
        weight_decay=section.weight_decay,
        decay_embeddings=section.decay_embeddings,
        groups=[ParameterGroup(**arguments_of(group)) for group in section.groups],
        layer_decay=section.layer_decay,
        ema_decay=section.ema_decay,
    )


def make_rule(config: ExperimentConfig) -> Rules:
    """Builds the update rule, of which the optimizer section has the keys that are not every optimizer's."""
    shared = [field.name for field in dataclasses.fields(OptimizerConfig)]
    return build(config.optimizer, at="optimizer", without=shared)
