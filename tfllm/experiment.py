"""The only wiring place: a config → model, tokenizer, rows, task, optimizer, strategy, trainer."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfllm.config import ExperimentConfig
from tfllm.data.pipeline import evaluation_batches, training_batches
from tfllm.data.sources import (
    JsonlSource,
    PythonDocsSource,
    Source,
    TextFilesSource,
    TfdsSource,
    TfRecordSource,
)
from tfllm.data.split import split_of
from tfllm.data.store import RowStore, default_cache_dir, prepare_rows
from tfllm.evaluation.evaluator import Evaluator
from tfllm.generation.generate import Generator
from tfllm.models.decoder import Decoder
from tfllm.run_folder import RunFolder
from tfllm.tasks.causal_lm import CausalLM
from tfllm.tasks.vocabulary_loss import chunk_tokens_for
from tfllm.tokenizers import ByteBPETokenizer, ByteTokenizer, Tokenizer, load_tokenizer
from tfllm.training.callbacks import Callback, Evaluate, Histograms, Log, Sample, Save, TrainerState
from tfllm.training.checkpoint import Checkpointer, model_variables, restore_model
from tfllm.training.display import Display
from tfllm.training.distribution import make_strategy
from tfllm.training.memory import estimate
from tfllm.training.metrics_log import MetricsLog
from tfllm.training.optimizers import make_optimizer
from tfllm.training.precision import dtype_policy
from tfllm.training.schedules import Schedule
from tfllm.training.throughput import peak_flops, training_flops_per_token
from tfllm.training.train_step import TrainStep
from tfllm.training.trainer import Trainer

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
    train: RowStore
    validation: RowStore


def prepare(config: ExperimentConfig, tokenizer: Tokenizer | None = None) -> Prepared:
    """Trains or loads the tokenizer and tokenises both splits, or finds them in the cache.

    Raises:
        DataError, TokenizerError: when text or tokenizer cannot be used.
    """
    source = make_source(config.data.train)
    tokenizer = tokenizer or make_tokenizer(config, source)
    shared: dict[str, Any] = {
        "tokenizer": tokenizer,
        "seq_len": config.data.seq_len,
        "packing": config.data.packing,
        "cache_dir": config.data.cache_dir,
    }
    train = prepare_rows(source=source, split=_split(config, "train"), **shared)
    if config.data.validation is None:
        validation = prepare_rows(source=source, split=_split(config, "validation"), **shared)
    else:
        other = make_source(config.data.validation)
        validation = prepare_rows(source=other, require_full_row=False, **shared)
    return Prepared(tokenizer, train, validation)


def make_source(config: Any) -> Source:
    """Builds the source a `data.train` or `data.validation` section describes."""
    return _SOURCES[config.type](**_arguments(config, "type"))


def make_tokenizer(config: ExperimentConfig, source: Source) -> Tokenizer:
    """Builds the tokenizer; a trained one sees the training documents only, and is cached."""
    section = config.tokenizer
    if section.type == "byte":
        return ByteTokenizer()
    if section.path is not None:
        return ByteBPETokenizer.from_file(section.path)
    cache = Path(config.data.cache_dir).expanduser() if config.data.cache_dir else default_cache_dir()
    split = _split(config, "train")
    identity = f"byte_bpe 1 {section.vocab_size} {split} {source.fingerprint()}"
    folder = cache / "tokenizers" / hashlib.sha256(identity.encode()).hexdigest()[:32]
    if not folder.exists():
        trained = ByteBPETokenizer.train(_documents(source, split), vocab_size=section.vocab_size)
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
    return make_source(config.data.validation).documents()


def make_model(config: ExperimentConfig, vocab_size: int, *, precision: str = "float32") -> Decoder:
    """Builds the model with new weights drawn from `config.seed`."""
    keras.utils.set_random_seed(config.seed)
    arguments = _arguments(config.model, "type", "size", "source", "max_seq_len")
    model = Decoder(
        vocab_size=vocab_size,
        max_seq_len=config.context_length,
        dtype=dtype_policy(precision),
        remat=config.training.remat,
        **arguments,
    )
    model.build()
    return model


def make_task(config: ExperimentConfig, tokenizer: Tokenizer) -> CausalLM:
    """Builds the task."""
    return CausalLM(
        token_byte_lengths=tokenizer.token_byte_lengths(),
        loss_chunk_tokens=config.training.loss_chunk_tokens,
    )


def make_evaluator(config: ExperimentConfig, model: Any, task: Any, rows: RowStore) -> Evaluator:
    """Builds the evaluator of the validation rows."""
    size = config.training.microbatch_size or config.training.global_batch_size

    def batches() -> tf.data.Dataset:
        return evaluation_batches(rows, batch_size=size)

    return Evaluator(model=model, task=task, batches=batches, jit_compile=config.training.jit_compile)


def make_generator(model: Any, tokenizer: Tokenizer, *, jit_compile: bool = True) -> Generator:
    """Builds a generator that stops at the end of a document."""
    stops = sorted({tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id})
    return Generator(model, stop_ids=stops, pad_id=tokenizer.pad_id, jit_compile=jit_compile)


def train(config: ExperimentConfig, run_dir: str | Path, display: Display | None = None) -> bool:
    """Trains into a run folder, or goes on where it stopped.

    Args:
        config: The experiment.
        run_dir: The run folder; made where it does not exist.
        display: Receives progress; None prints to the terminal.

    Returns:
        True when training reached its end, False when Ctrl-C stopped it (and a checkpoint was saved).

    Raises:
        ConfigError, DataError, TokenizerError, TrainingError: each with one message to act on.
    """
    display = display or Display(total_steps=config.training.steps)
    run = RunFolder(Path(run_dir))
    run.open_for(config)
    if config.training.deterministic:
        tf.config.experimental.enable_op_determinism()
    distribution = config.distribution
    strategy = make_strategy(distribution.type, num_devices=getattr(distribution, "num_devices", None))
    prepared = _prepare_run(config, run, display)
    return _Training(config, run, strategy, prepared, display).run()


class _Training:
    """One run's objects, made in order."""

    def __init__(self, config, run, strategy, prepared, display):
        self.config, self.run_folder, self.strategy = config, run, strategy
        self.prepared, self.display = prepared, display
        with strategy.scope():
            self.model = make_model(
                config, prepared.tokenizer.vocab_size, precision=config.training.precision
            )
            self.optimizer = _make_optimizer(config, self.model)
        self.task = make_task(config, prepared.tokenizer)
        named = {**model_variables(self.model), **_optimizer_variables(self.optimizer)}
        self.checkpointer = Checkpointer(
            run.checkpoints, named, keep=config.training.keep_checkpoints, notify=display.notice
        )

    def run(self) -> bool:
        state = self._restored_state()
        if state.step >= self.config.training.steps:
            self.display.notice(f"{self.run_folder.path} is already trained to step {state.step}")
            return True
        trainer = self._trainer(state)
        self.display.start(state)
        try:
            if state.step == 0:
                self._evaluate(state)
            return trainer.run(state)
        finally:
            self.display.stop()

    def _restored_state(self) -> TrainerState:
        restored = self.checkpointer.restore()
        if restored is None:
            if self.config.model.source is not None:
                source = RunFolder(Path(self.config.model.source))
                restore_model(source.checkpoints, self.model, notify=self.display.notice)
                self.display.notice(f"weights from {source.path}")
            return TrainerState()
        self.display.notice(f"going on from {restored.path}")
        return TrainerState(step=restored.step, **restored.state)

    def _trainer(self, state: TrainerState) -> Trainer:
        training = self.config.training
        shares = self.strategy.num_replicas_in_sync * (training.microbatch_size or training.global_batch_size)
        step = TrainStep(
            model=self.model,
            task=self.task,
            optimizer=self.optimizer,
            strategy=self.strategy,
            clip_norm=self.config.optimizer.clip_norm,
            num_microbatches=max(1, training.global_batch_size // shares),
            jit_compile=training.jit_compile,
        )
        save = Save(every=training.checkpoint_every, checkpointer=self.checkpointer)
        return Trainer(
            train_step=step,
            batches=self._batches,
            steps=training.steps,
            steps_per_call=training.steps_per_call,
            callbacks=self._callbacks(state),
            save=save,
            describe_batch=self._describe_batch,
            progress=self.display.progress,
        )

    def _callbacks(self, state: TrainerState) -> list[Callback]:
        config, training, show = self.config, self.config.training, self.display.entry
        log = MetricsLog(self.run_folder.metrics, step=state.step)
        writer = tf.summary.create_file_writer(str(self.run_folder.tensorboard))
        evaluator = make_evaluator(config, self.model, self.task, self.prepared.validation)
        self._evaluate = Evaluate(
            every=training.evaluate_every, evaluate=evaluator.evaluate, log=log, writer=writer, show=show
        )
        callbacks: list[Callback] = [
            Log(
                every=training.log_every,
                log=log,
                writer=writer,
                show=show,
                flops_per_token=flops_per_token(self.model, config.data.seq_len),
                peak_flops=peak_flops(training.precision) * _devices(self.strategy),
            ),
            self._evaluate,
        ]
        if config.generation.prompts:
            folder = self.run_folder.samples
            callbacks.append(
                Sample(every=training.sample_every, sample=self._sampler(), folder=folder, writer=writer)
            )
        if training.histogram_every:
            variables = self.model.trainable_variables
            callbacks.append(Histograms(every=training.histogram_every, variables=variables, writer=writer))
        return callbacks

    def _sampler(self):
        settings = dataclasses.asdict(self.config.generation)
        prompts = settings.pop("prompts")
        tokenizer = self.prepared.tokenizer
        generator = make_generator(self.model, tokenizer, jit_compile=False)

        def sample() -> list[tuple[str, str]]:
            ids = [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in prompts]
            return list(zip(prompts, map(tokenizer.decode, generator(ids, **settings)), strict=True))

        return sample

    def _batches(self, start_step: int) -> Any:
        dataset = self._plain_batches(start_step, self.config.training.steps)
        if self.strategy.num_replicas_in_sync == 1:
            return dataset
        return self.strategy.experimental_distribute_dataset(dataset)

    def _plain_batches(self, start_step: int, num_steps: int) -> tf.data.Dataset:
        return training_batches(
            self.prepared.train,
            global_batch_size=self.config.training.global_batch_size,
            seed=self.config.seed,
            start_step=start_step,
            num_steps=num_steps,
        )

    def _describe_batch(self, step: int) -> str:
        batch = next(iter(self._plain_batches(step, step + 1)))
        rows = ", ".join(str(row) for row in batch["row_ids"].numpy()[:16])
        return f" (batch {step}: rows {rows} of {self.prepared.train.path})"


def flops_per_token(model: Decoder, seq_len: int) -> float:
    """FLOPs of forward and backward for a token of a row of `seq_len`."""
    matrices = [v for v in model.trainable_variables if len(v.shape) == 2]
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


def memory_of(config: ExperimentConfig, model: Decoder, *, framework: int) -> dict[str, int]:
    """Bytes of a training step on one device, by part, as the config has it."""
    training = config.training
    share = training.global_batch_size // config.distribution.replicas
    rows = training.microbatch_size or share
    return memory_estimate(
        model,
        optimizer=config.optimizer.type,
        momentum=getattr(config.optimizer, "momentum", 0.0),
        averaged_weights=getattr(config.optimizer, "ema_decay", None) is not None,
        rows=rows,
        seq_len=config.data.seq_len,
        loss_chunk_tokens=training.loss_chunk_tokens,
        num_microbatches=max(1, share // rows),
        framework=framework,
    )


def memory_estimate(
    model: Decoder,
    *,
    optimizer: str,
    rows: int,
    seq_len: int,
    momentum: float = 0.0,
    loss_chunk_tokens: int | None = None,
    num_microbatches: int = 1,
    averaged_weights: bool = False,
    framework: int = 0,
) -> dict[str, int]:
    """Bytes of a training step of this model, by part; arguments as in `training.memory.estimate`."""
    return estimate(
        shapes=[tuple(v.shape) for v in model.trainable_variables],
        optimizer=optimizer,
        momentum=momentum,
        averaged_weights=averaged_weights,
        num_layers=model.num_layers,
        hidden_dim=model.hidden_dim,
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        intermediate_dim=model.intermediate_dim,
        gated=model.blocks[0].feed_forward.gate is not None,
        vocab_size=model.vocab_size,
        rows=rows,
        seq_len=seq_len,
        compute_bytes=2 if model.compute_dtype in ("bfloat16", "float16") else 4,
        remat=model.remat,
        loss_chunk_tokens=loss_chunk_tokens or chunk_tokens_for(model.vocab_size),
        attention_block_size=getattr(model, "attention_block_size", None),
        num_microbatches=num_microbatches,
        framework=framework,
    )


def _prepare_run(config: ExperimentConfig, run: RunFolder, display: Display) -> Prepared:
    start = time.perf_counter()
    tokenizer = load_tokenizer(run.tokenizer) if run.tokenizer.exists() else None
    prepared = prepare(config, tokenizer)
    if tokenizer is None:
        part = run.tokenizer.with_name(".part_tokenizer")
        shutil.rmtree(part, ignore_errors=True)
        prepared.tokenizer.save(part)
        part.rename(run.tokenizer)  # whole or not there, should the process be killed
    for name, rows in (("train", prepared.train), ("validation", prepared.validation)):
        display.notice(f"{name}: {rows.summary}")
    display.notice(f"text ready in {time.perf_counter() - start:.1f} s")
    return prepared


def _split(config: ExperimentConfig, side: str) -> tuple[str, float, int] | None:
    if config.data.validation is not None:
        return None
    return (side, config.data.validation_fraction, config.seed)


def _documents(source: Source, split: tuple[str, float, int] | None) -> Iterator[str]:
    for text in source.documents():
        if split is None or split_of(text, fraction=split[1], seed=split[2]) == split[0]:
            yield text


def _make_optimizer(config: ExperimentConfig, model: Any) -> keras.optimizers.Optimizer:
    section, schedule = config.optimizer, config.optimizer.schedule
    course = Schedule(
        kind=schedule.type,
        peak=section.learning_rate,
        total_steps=config.training.steps,
        **_arguments(schedule, "type"),
    )
    arguments = _arguments(section, "type", "learning_rate", "schedule", "clip_norm")
    return make_optimizer(
        section.type, learning_rate=course, variables=model.trainable_variables, **arguments
    )


def _optimizer_variables(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    return {f"optimizer/{index:04d}/{v.path}": v for index, v in enumerate(optimizer.variables)}


def _arguments(section: Any, *without: str) -> dict[str, Any]:
    return {f.name: getattr(section, f.name) for f in dataclasses.fields(section) if f.name not in without}


def _devices(strategy: tf.distribute.Strategy) -> int:
    # Logical CPU devices share the cores of one machine.
    return strategy.num_replicas_in_sync if tf.config.list_physical_devices("GPU") else 1
