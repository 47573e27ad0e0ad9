"""The only wiring place: a config → model, tokenizer, rows, task, optimizer, strategy, trainer."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfllm.config import ConfigError, ExperimentConfig, Problem
from tfllm.config.build import to_mapping
from tfllm.config.data import MixtureConfig
from tfllm.config.home import expand_home
from tfllm.data.errors import DataError
from tfllm.data.mixture import RowMixture
from tfllm.data.pipeline import evaluation_batches
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
from tfllm.evaluation.evaluator import Evaluator
from tfllm.generation.generate import Generator
from tfllm.layers.causal_attention import group_size_for
from tfllm.models.keras_nlp_model import KerasNlpModel
from tfllm.pretrained import MODEL_TYPES, pretrained_tokenizer
from tfllm.stop_tokens import stop_ids
from tfllm.tasks.causal_lm import CausalLM
from tfllm.tasks.vocabulary_loss import chunk_tokens_for
from tfllm.tokenizers import ByteBPETokenizer, ByteTokenizer, Tokenizer, read_tokenizer
from tfllm.tokenizers.files.byte_bpe_files import read_byte_bpe
from tfllm.training.distribution import shares_of
from tfllm.training.memory import StepShape, compiler_bytes, estimate, optimizer_bytes
from tfllm.training.optimizers import Optimizer, make_optimizer
from tfllm.training.parameter_groups import ParameterGroup
from tfllm.training.precision import dtype_policy
from tfllm.training.schedules import Schedule
from tfllm.training.throughput import training_flops_per_token

_SOURCES: dict[str, Any] = {
    "python_docs": PythonDocsSource,
    "text_files": TextFilesSource,
    "jsonl": JsonlSource,
    "tfds": TfdsSource,
    "tfrecord": TfRecordSource,
}
_MODELS: dict[str, Any] = {name: model for model, name in MODEL_TYPES.items()}


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
        return read_byte_bpe(section.path)
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
    return read_tokenizer(folder)


def held_out_documents(config: ExperimentConfig) -> Iterator[str]:
    """Yields the validation documents, as text."""
    if config.data.validation is None:
        return _documents(make_source(config.data.train), _split(config, "validation"))
    return make_source(config.data.validation, "data.validation").documents()


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


def make_task(config: ExperimentConfig, tokenizer: Tokenizer) -> CausalLM:
    """Builds the task."""
    return CausalLM(
        token_byte_lengths=tokenizer.token_byte_lengths(),
        loss_chunk_tokens=config.training.loss_chunk_tokens,
    )


def make_evaluator(
    config: ExperimentConfig,
    model: Any,
    task: Any,
    rows: RowStore | RowMixture,
    *,
    strategy: tf.distribute.Strategy | None = None,
    averaged: Any = contextlib.nullcontext,
) -> Evaluator:
    """Builds the evaluator of the validation rows.

    Args:
        config: The experiment.
        model: The model.
        task: The task.
        rows: The validation rows.
        strategy: The strategy that the model was made under; None is one device.
        averaged: Makes the context in which the model holds the weights to evaluate.
    """
    strategy = strategy or tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    microbatch = config.training.microbatch_size
    size = microbatch * replicas if microbatch else config.training.global_batch_size

    def batches() -> Any:
        def of_pipeline(context: tf.distribute.InputContext) -> tf.data.Dataset:
            shares = shares_of(context, strategy)
            return evaluation_batches(rows, batch_size=size, num_shares=replicas, shares=shares)

        if replicas == 1:
            return evaluation_batches(rows, batch_size=size)
        return strategy.distribute_datasets_from_function(of_pipeline)

    return Evaluator(
        model=model,
        task=task,
        batches=batches,
        strategy=strategy,
        averaged=averaged,
        jit_compile=config.training.jit_compile,
    )


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


def flops_per_token(model: Any, seq_len: int) -> float:
    """FLOPs of forward and backward for a token of a row of `seq_len`."""
    matrices = [v for v in model.trainable_variables if len(v.shape) >= 2]
    lookups = [v for v in matrices if v.path.endswith("embeddings")]
    weights = sum(math.prod(v.shape) for v in matrices) - sum(math.prod(v.shape) for v in lookups)
    if model.tie_embeddings:
        weights += model.vocab_size * model.hidden_dim
    return training_flops_per_token(
        num_weights=weights,
        num_layers=model.num_layers,
        width=model.num_heads * model.head_dim,
        seq_len=seq_len,
    )


def memory_of(config: ExperimentConfig, model: Any, *, framework: int = 0) -> dict[str, int]:
    """Bytes of a training step on one device, by part.

    Args:
        config: The experiment.
        model: From `make_model(..., training=True)`.
        framework: Bytes of the process without a model. On the CPU, compiling takes of the same memory.
    """
    training, optimizer = config.training, config.optimizer
    share = training.global_batch_size // config.distribution.replicas
    rows = training.microbatch_size or share
    shape = step_shape(
        model,
        rows=rows,
        seq_len=config.data.seq_len,
        loss_chunk_tokens=training.loss_chunk_tokens,
        num_microbatches=max(1, share // rows),
    )
    momentum = getattr(optimizer, "momentum", 0.0)
    on_cpu = not tf.config.list_physical_devices("GPU")
    return estimate(
        shape,
        weights=model.count_params(),
        optimizer_state=optimizer_bytes(optimizer.type, model.trainable_variables, momentum=momentum),
        averaged_weights=optimizer.ema_decay is not None,
        framework=framework,
        compiler=compiler_bytes(shape, model.trainable_variables) if on_cpu else 0,
    )


def step_shape(
    model: Any, *, rows: int, seq_len: int, loss_chunk_tokens: int | None, num_microbatches: int = 1
) -> StepShape:
    """The sizes of a model's training step; `rows` are those of a microbatch."""
    keras_nlp = model if isinstance(model, KerasNlpModel) else None
    return StepShape(
        num_layers=model.num_layers,
        hidden_dim=model.hidden_dim,
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        intermediate_dim=model.intermediate_dim,
        gated=keras_nlp.gated if keras_nlp else model.blocks[0].feed_forward.gate is not None,
        vocab_size=model.vocab_size,
        rows=rows,
        seq_len=seq_len,
        loss_chunk_tokens=loss_chunk_tokens or chunk_tokens_for(model.vocab_size),
        compute_bytes=4 if model.compute_dtype == "float32" else 2,
        remat=model.remat,
        attention_group_size=seq_len if keras_nlp else group_size_for(seq_len),
        attention_block_size=model.attention_block_size,
        num_microbatches=num_microbatches,
    )


def _split(config: ExperimentConfig, side: str) -> tuple[str, float, int] | None:
    if config.data.validation is not None:
        return None
    return (side, config.data.validation_fraction, config.seed)


def _documents(source: Source, split: tuple[str, float, int] | None) -> Iterator[str]:
    for text in source.documents():
        if split is None or split_of(text, fraction=split[1], seed=split[2]) == split[0]:
            yield text


def make_optimizer_of(config: ExperimentConfig, model: Any) -> Optimizer:
    """Builds the optimizer; call under the strategy's scope."""
    section, schedule = config.optimizer, config.optimizer.schedule
    course = Schedule(
        kind=schedule.type,
        peak=section.learning_rate,
        total_steps=config.training.steps,
        **arguments_of(schedule, "type"),
    )
    groups = [ParameterGroup(**arguments_of(group)) for group in section.groups]
    # Clipping and skipping are the train step's.
    without = ("type", "learning_rate", "schedule", "groups", "clip_norm", "skip_above")
    return make_optimizer(
        section.type,
        learning_rate=course,
        variables=model.trainable_variables,
        groups=groups,
        **arguments_of(section, *without),
    )


def arguments_of(section: Any, *without: str) -> dict[str, Any]:
    """A section as keyword arguments, but for the keys named."""
    return {f.name: getattr(section, f.name) for f in dataclasses.fields(section) if f.name not in without}


def _sample(source: Source, split: tuple[str, float, int] | None, budget: int) -> Iterator[str]:
    mixture = source if isinstance(source, MixtureSource) else MixtureSource([source], [1.0])
    for part, weight in zip(mixture.sources, mixture.weights, strict=True):
        share = int(budget * weight / sum(mixture.weights))
        for text in sampled_texts(_documents(part, split), max_bytes=share):
            yield text.decode()
