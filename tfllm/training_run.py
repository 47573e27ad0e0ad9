"""A run in its folder: everything a training needs, made in order, and gone on with after a stop."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfllm import experiment
from tfllm.config import ConfigError, ExperimentConfig, Problem
from tfllm.config.build import to_mapping
from tfllm.config.sections import OneDeviceConfig
from tfllm.data.pipeline import training_batches
from tfllm.data.store import RowStore
from tfllm.evaluation.evaluator import Evaluator
from tfllm.experiment import Prepared
from tfllm.run_folder import RunFolder
from tfllm.tokenizers import load_tokenizer
from tfllm.training.callbacks import Callback, Evaluate, Histograms, Log, Profile, Sample, Save, TrainerState
from tfllm.training.checkpoint import Checkpointer, Restored, model_variables, restore_model
from tfllm.training.display import Display
from tfllm.training.distribution import (
    check_agreement,
    gather_from_workers,
    is_chief,
    make_strategy,
    num_workers,
    shares_of,
)
from tfllm.training.errors import TrainingError
from tfllm.training.loss_scale import LossScale
from tfllm.training.metrics_log import MetricsLog, NoLog
from tfllm.training.peak_memory import peak_memory_bytes
from tfllm.training.replay import explain_step, load_batch, save_batch
from tfllm.training.stop_request import StopRequest
from tfllm.training.throughput import peak_flops
from tfllm.training.train_step import TrainStep
from tfllm.training.trainer import Trainer
from tfllm.version import __version__

_MENDS = {
    "config": "start every worker with the same YAML and overrides (distribution.index may differ)",
    "text or tokenizer": "give every worker the same files, or a data.cache_dir and run folder that they share",
    "version of tfllm, TensorFlow or Keras": "install the same versions everywhere",
    "checkpoint": "put the run folder on storage that all workers share",
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Args:
        stopped_by: Why it stopped before its end, after a checkpoint was saved; None at the end.
        is_chief: Whether this process wrote the run folder.
    """

    stopped_by: str | None
    is_chief: bool


def train(config: ExperimentConfig, run_dir: str | Path, display: Display | None = None) -> Outcome:
    """Trains into a run folder, or goes on where it stopped.

    Args:
        config: The experiment.
        run_dir: The run folder; made where it does not exist. Several workers share it.
        display: Receives progress; None prints to the terminal.

    Returns:
        How it ended.

    Raises:
        ConfigError, DataError, TokenizerError, TrainingError: each with one message to act on.
    """
    display = display or Display(total_steps=config.training.steps)
    with _started(config, Path(run_dir), display) as training:
        return Outcome(training.run(), training.is_chief)


def dry_run(config: ExperimentConfig, display: Display | None = None) -> list[str]:
    """Builds everything, takes two steps, and says what the whole run would need.

    Nothing is written but the tokenizer and the rows in the cache.

    Returns:
        Lines of text.
    """
    display = display or Display(total_steps=config.training.steps)
    with tempfile.TemporaryDirectory() as folder, _started(config, Path(folder), display) as training:
        return training.measure()


def replay(config: ExperimentConfig, run_dir: str | Path, display: Display | None = None) -> Iterator[str]:
    """Takes the step at which a run failed once more, operation by operation.

    Yields:
        Lines of text that say where numbers stop being finite.

    Raises:
        TrainingError: when no failed step was kept in the run folder.
    """
    config = dataclasses.replace(config, distribution=OneDeviceConfig())
    display = display or Display(total_steps=config.training.steps)
    with _started(config, Path(run_dir), display) as training:
        yield from training.replay()


@contextlib.contextmanager
def _started(config: ExperimentConfig, folder: Path, display: Display) -> Iterator[_Training]:
    """Makes everything under the strategy, and checks that all workers mean the same run."""
    if config.training.deterministic:
        tf.config.experimental.enable_op_determinism()
    section = config.distribution
    strategy = make_strategy(section.type, **experiment.arguments_of(section, "type"))
    _check_batch(config, strategy)
    run = RunFolder(folder)
    chief = is_chief(strategy)
    if num_workers(strategy) > 1:
        check_agreement(strategy, _fingerprints(config), mends=_MENDS)
    if not chief:
        display = Display(total_steps=config.training.steps, silent=True)
    if chief:
        run.open_for(config)
        prepared = _prepare(config, run, display)
    # The others find the chief's tokenizer and rows where they share a disk, and make their own elsewhere.
    gather_from_workers(strategy, [0])
    if not chief:
        prepared = _prepare(config, run, display)
    yield _Training(config, run, strategy, prepared, display)


class _Training:
    """One run's objects, made in order."""

    def __init__(self, config, run, strategy, prepared, display):
        self.config, self.run_folder, self.strategy = config, run, strategy
        self.prepared, self.display = prepared, display
        self.is_chief = is_chief(strategy)
        precision = config.training.precision
        with strategy.scope():
            self.model = experiment.make_model(config, prepared.tokenizer.vocab_size, precision=precision)
            self.optimizer = experiment.make_optimizer_of(config, self.model)
            self.loss_scale = LossScale() if precision == "mixed_float16" else None
        self.task = experiment.make_task(config, prepared.tokenizer)
        self.step = self._make_step()
        training = config.training
        self.best = (training.best_metric, training.best_mode) if training.best_metric else None
        self.checkpointer = self._checkpointer(
            run.checkpoints, keep=training.keep_checkpoints, best=self.best
        )

    def run(self) -> str | None:
        """Trains to the end."""
        state = self._restored_state()
        if state.step >= self.config.training.steps:
            self.display.notice(f"{self.run_folder.path} is already trained to step {state.step}")
            return None
        trainer = self._trainer(state)
        self.display.start(state)
        try:
            if state.step == 0:
                self._evaluate(state)
            return trainer.run(state)
        finally:
            self.display.stop()

    def measure(self) -> list[str]:
        """Takes two steps; returns what the run would need."""
        config, training = self.config, self.config.training
        loop = tf.function(lambda iterator: self.step(next(iterator)))
        iterator = iter(self._batches(0, 2))
        start = time.perf_counter()
        loop(iterator).numpy()
        first = time.perf_counter() - start
        start = time.perf_counter()
        loop(iterator).numpy()
        seconds = time.perf_counter() - start
        tokens = training.global_batch_size * config.data.seq_len
        weights = sum(v.numpy().size for v in self.model.variables)
        state = sum(v.value.shape.num_elements() for v in self.optimizer.variables)
        epochs = training.steps * training.global_batch_size / self.prepared.train.num_rows
        return [
            f"parameters           {weights:,}; {state:,} numbers of optimizer state",
            f"checkpoint           {4 * (weights + state) / 1e9:.2f} GB, {training.keep_checkpoints} kept",
            f"batch                {training.global_batch_size} rows of {config.data.seq_len}: {tokens:,} tokens on"
            f" {self.strategy.num_replicas_in_sync} device(s)",
            f"peak memory          {peak_memory_bytes() / 1e9:.2f} GB in this process, compilation included",
            f"first step           {first:.1f} s, compilation included",
            f"step                 {seconds:.2f} s, {tokens / seconds:,.0f} tokens/s",
            f"whole run            {training.steps:,} steps, {_duration(training.steps * seconds)} without evaluation,"
            f" {epochs:.2f} epochs",
        ]

    def replay(self) -> Iterator[str]:
        """Yields what the failed step looks like from inside."""
        folder = self.run_folder.failures
        restored = self._checkpointer(folder, keep=1).restore()
        if restored is None:
            raise TrainingError(
                f"{folder} holds no failed step; only a run that stopped at one can be replayed"
            )
        yield f"step {restored.step + 1}, weights from {restored.path}"
        features = load_batch(folder / f"batch_{restored.step:08d}.npz")
        yield from explain_step(self.model, self.task, self.optimizer.trainable, features)

    def _restored_state(self) -> TrainerState:
        restored = self.checkpointer.restore()
        step = 0 if restored is None else restored.step
        if num_workers(self.strategy) > 1:
            data = [self.prepared.tokenizer.fingerprint, *self._data_keys().values()]
            numbers = {"text or tokenizer": _hash(repr(data)), "checkpoint": step}
            check_agreement(self.strategy, numbers, mends=_MENDS)
        if restored is None:
            if self.config.model.source is not None:
                source = RunFolder(Path(self.config.model.source))
                restore_model(source.checkpoints, self.model, notify=self.display.notice)
                self.display.notice(f"weights from {source.path}")
            return TrainerState()
        self._check_data(restored)
        self.display.notice(f"going on from {restored.path}")
        return TrainerState(step=restored.step, saved_step=restored.step, **restored.state)

    def _check_data(self, restored: Restored) -> None:
        """The order of rows means nothing over other rows."""
        for name, key in self._data_keys().items():
            there = restored.about.get("data", {}).get(name)
            if there is not None and there != key:
                raise TrainingError(
                    f"the {name} rows have changed since {restored.path} was written ({there[:12]} there,"
                    f" {key[:12]} now); bring back the text and tokenizer of the run, or train into another"
                    " --run-dir with model.source set to this one"
                )

    def _data_keys(self) -> dict[str, str]:
        return {"train": self.prepared.train.identity, "validation": self.prepared.validation.identity}

    def _checkpointer(self, folder: Path, **settings: Any) -> Checkpointer:
        named: dict[str, Any] = dict(model_variables(self.model))
        named |= {f"optimizer/{name}": v for name, v in self.optimizer.named_variables.items()}
        if self.loss_scale is not None:
            named |= {f"loss_scale/{name}": v for name, v in self.loss_scale.named_variables.items()}
        return Checkpointer(
            folder,
            named,
            on_error=self.config.training.on_save_error,
            about={"config": to_mapping(self.config), "versions": _versions(), "data": self._data_keys()},
            writes=self.is_chief,
            notify=self.display.notice,
            **settings,
        )

    def _make_step(self) -> TrainStep:
        training = self.config.training
        shares = self.strategy.num_replicas_in_sync * (training.microbatch_size or training.global_batch_size)
        return TrainStep(
            model=self.model,
            task=self.task,
            optimizer=self.optimizer,
            strategy=self.strategy,
            clip_norm=self.config.optimizer.clip_norm,
            skip_above=self.config.optimizer.skip_above,
            num_microbatches=max(1, training.global_batch_size // shares),
            loss_scale=self.loss_scale,
            jit_compile=training.jit_compile,
        )

    def _trainer(self, state: TrainerState) -> Trainer:
        training = self.config.training
        return Trainer(
            train_step=self.step,
            batches=lambda start: self._batches(start, training.steps),
            steps=training.steps,
            steps_per_call=training.steps_per_call,
            callbacks=self._callbacks(state),
            save=Save(every=training.checkpoint_every, checkpointer=self.checkpointer, best=self.best),
            stop_request=lambda: StopRequest(notice=training.preemption_notice, notify=self.display.notice),
            on_failure=self._keep_failure,
            progress=self.display.progress,
        )

    def _callbacks(self, state: TrainerState) -> list[Callback]:
        """The chief writes; every worker takes part in what computes over all of them."""
        config, training, show = self.config, self.config.training, self.display.entry
        log: Any = NoLog()
        writer = tf.summary.create_noop_writer()
        if self.is_chief:
            log = MetricsLog(self.run_folder.metrics, step=state.step)
            writer = tf.summary.create_file_writer(str(self.run_folder.tensorboard))
        self._evaluate = Evaluate(
            every=training.evaluate_every,
            evaluate=self._evaluator().evaluate,
            log=log,
            writer=writer,
            show=show,
        )
        logging = Log(
            every=training.log_every,
            log=log,
            writer=writer,
            show=show,
            flops_per_token=experiment.flops_per_token(self.model, config.data.seq_len),
            peak_flops=peak_flops(training.precision) * _devices(self.strategy),
            scaled=self.loss_scale is not None,
        )
        callbacks: list[Callback] = [logging, self._evaluate]
        if not self.is_chief:
            return callbacks
        if config.generation.prompts:
            folder = self.run_folder.samples
            callbacks.append(
                Sample(every=training.sample_every, sample=self._sampler(), folder=folder, writer=writer)
            )
        if training.histogram_every:
            variables = self.model.trainable_variables
            callbacks.append(Histograms(every=training.histogram_every, variables=variables, writer=writer))
        if training.profile is not None:
            callbacks.append(Profile(steps=training.profile, folder=self.run_folder.tensorboard))
        return callbacks

    def _evaluator(self) -> Evaluator:
        return experiment.make_evaluator(
            self.config,
            self.model,
            self.task,
            self.prepared.validation,
            strategy=self.strategy,
            averaged=self.optimizer.averaged,
        )

    def _sampler(self) -> Callable[[], list[tuple[str, str]]]:
        settings = dataclasses.asdict(self.config.generation)
        prompts = settings.pop("prompts")
        tokenizer = self.prepared.tokenizer
        generator = experiment.make_generator(self.model, tokenizer, jit_compile=False)

        def sample() -> list[tuple[str, str]]:
            ids = [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in prompts]
            with self.optimizer.averaged():
                return list(zip(prompts, map(tokenizer.decode, generator(ids, **settings)), strict=True))

        return sample

    def _batches(self, start_step: int, num_steps: int) -> Any:
        if self.strategy.num_replicas_in_sync == 1:
            return self._plain_batches(start_step, num_steps)

        def of_pipeline(context: tf.distribute.InputContext) -> tf.data.Dataset:
            shares = shares_of(context, self.strategy)
            replicas = self.strategy.num_replicas_in_sync
            return self._plain_batches(start_step, num_steps, num_shares=replicas, shares=shares)

        return self.strategy.distribute_datasets_from_function(of_pipeline)

    def _plain_batches(self, start_step: int, num_steps: int, **shares: Any) -> tf.data.Dataset:
        return training_batches(
            self.prepared.train,
            global_batch_size=self.config.training.global_batch_size,
            seed=self.config.seed,
            start_step=start_step,
            num_steps=num_steps,
            **shares,
        )

    def _keep_failure(self, state: TrainerState) -> str:
        """Keeps weights and batch of a failed step for `--replay`."""
        batch = next(iter(self._plain_batches(state.step, state.step + 1)))
        row_ids, source_ids = batch["row_ids"].numpy()[:16], batch["source_ids"].numpy()[:16]
        one = isinstance(self.prepared.train, RowStore)
        pairs = zip(source_ids, row_ids, strict=True)
        rows = ", ".join(str(row) if one else f"{row} of source {source}" for source, row in pairs)
        words = f" (batch {state.step}: rows {rows} of {self.prepared.train.path})"
        if not self.is_chief:
            return words
        folder = self.run_folder.failures
        try:
            save_batch(folder / f"batch_{state.step:08d}.npz", batch)
            keeper = self._checkpointer(folder, keep=1)
            keeper.save(state.step, state.saved())
            keeper.wait()
        except (OSError, TrainingError) as error:
            return f"{words}; the step could not be kept for a replay ({error})"
        return f"{words}; see the step from inside: the same command with --replay"


def _prepare(config: ExperimentConfig, run: RunFolder, display: Display) -> Prepared:
    start = time.perf_counter()
    tokenizer = load_tokenizer(run.tokenizer) if run.tokenizer.exists() else None
    prepared = experiment.prepare(config, tokenizer)
    if tokenizer is None:
        part = run.tokenizer.with_name(f".part_tokenizer_{os.getpid()}")
        shutil.rmtree(part, ignore_errors=True)
        prepared.tokenizer.save(part)
        part.rename(run.tokenizer)  # whole or not there, should the process be killed
    for name, rows in (("train", prepared.train), ("validation", prepared.validation)):
        display.notice(f"{name}: {rows.summary}")
    display.notice(f"text ready in {time.perf_counter() - start:.1f} s")
    return prepared


def _check_batch(config: ExperimentConfig, strategy: tf.distribute.Strategy) -> None:
    """What the config alone could not know: how many devices there are."""
    batch, replicas = config.training.global_batch_size, strategy.num_replicas_in_sync
    share = replicas * (config.training.microbatch_size or 1)
    if batch % share:
        near = sorted({max(share, batch // share * share), (batch // share + 1) * share})
        of = f" x training.microbatch_size={config.training.microbatch_size}" if share > replicas else ""
        rule, mend = f"must be divisible by {replicas} devices{of}", f"try {' or '.join(map(str, near))}"
        raise ConfigError([Problem("training.global_batch_size", batch, rule, mend)], "the config")


def _fingerprints(config: ExperimentConfig) -> dict[str, int]:
    mapping = to_mapping(config)
    mapping["distribution"].pop("index", None)
    mapping["data"].pop("cache_dir", None)
    versions = {name: v for name, v in _versions().items() if name != "python"}
    return {"config": _hash(repr(mapping)), "version of tfllm, TensorFlow or Keras": _hash(repr(versions))}


def _versions() -> dict[str, str]:
    return {
        "tfllm": __version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
    }


def _hash(text: str) -> int:
    return zlib.crc32(text.encode()) >> 1  # fits an int32


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _devices(strategy: tf.distribute.Strategy) -> int:
    # Logical CPU devices share the cores of one machine.
    return strategy.num_replicas_in_sync if tf.config.list_physical_devices("GPU") else num_workers(strategy)
