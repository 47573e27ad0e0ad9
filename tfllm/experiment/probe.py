"""A training looked at without being done: what it would need, and why it failed."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from tfllm.config import ExperimentConfig
from tfllm.config.sections import OneDeviceConfig
from tfllm.experiment.base import saved_variables
from tfllm.experiment.run_folder import RunFolder
from tfllm.experiment.setup import TrainingSetup, set_up
from tfllm.training.display import Display
from tfllm.training.errors import TrainingError
from tfllm.training.peak_memory import peak_memory_bytes
from tfllm.training.replay import explain_step, load_batch


def dry_run(config: ExperimentConfig, display: Display | None = None) -> list[str]:
    """Builds everything, takes two steps, and says what the whole run would need.

    Nothing is written but the tokenizer and the rows in the cache.

    Returns:
        Lines of text.
    """
    display = display or Display(total_steps=config.training.steps)
    with tempfile.TemporaryDirectory() as folder, set_up(config, Path(folder), display) as setup:
        return _measure(setup)


def replay(config: ExperimentConfig, run_dir: str | Path, display: Display | None = None) -> Iterator[str]:
    """Takes the step at which a run failed once more, operation by operation.

    Yields:
        Lines of text that say where numbers stop being finite.

    Raises:
        TrainingError: when no failed step was kept in the run folder.
    """
    folder = RunFolder(Path(run_dir)).failures
    if not folder.exists():
        raise TrainingError(f"{folder} holds no failed step; only a run that stopped at one can be replayed")
    config = dataclasses.replace(config, distribution=OneDeviceConfig())
    display = display or Display(total_steps=config.training.steps)
    with set_up(config, Path(run_dir), display, records=False) as setup:
        yield from _replay(setup)


def _measure(setup: TrainingSetup) -> list[str]:
    config, training = setup.config, setup.config.training
    loop = tf.function(lambda iterator: setup.step(next(iterator)), autograph=False)
    iterator = iter(setup.batches(0, 2))
    start = time.perf_counter()
    loop(iterator).numpy()
    first = time.perf_counter() - start
    start = time.perf_counter()
    loop(iterator).numpy()
    seconds = time.perf_counter() - start
    tokens = training.global_batch_size * config.data.seq_len
    weights = sum(v.numpy().size for v in setup.model.variables)
    saved = sum(v.numpy().size for v in saved_variables(config, setup.model).values())
    state = sum(v.value.shape.num_elements() for v in setup.optimizer.variables)
    epochs = training.steps * training.global_batch_size / setup.prepared.train.num_rows
    return [
        f"parameters           {weights:,}; {state:,} numbers of optimizer state",
        f"checkpoint           {4 * (saved + state) / 1e9:.2f} GB, {training.keep_checkpoints} kept",
        f"batch                {training.global_batch_size} rows of {config.data.seq_len}: {tokens:,} tokens on"
        f" {setup.strategy.num_replicas_in_sync} device(s)",
        f"peak memory          {peak_memory_bytes() / 1e9:.2f} GB in this process, compilation included",
        f"first step           {first:.1f} s, compilation included",
        f"step                 {seconds:.2f} s, {tokens / seconds:,.0f} tokens/s",
        f"whole run            {training.steps:,} steps, {_duration(training.steps * seconds)} without evaluation,"
        f" {epochs:.2f} epochs",
    ]


def _replay(setup: TrainingSetup) -> Iterator[str]:
    folder = setup.run_folder.failures
    setup.fill_base()
    restored = setup.make_checkpointer(folder, keep=1).restore()
    if restored is None:
        raise TrainingError(f"{folder} holds no whole checkpoint of the failed step; let the run fail again")
    yield f"step {restored.step + 1}, weights from {restored.path}"
    features = load_batch(folder / f"batch_{restored.step:08d}.npz")
    yield from explain_step(setup.model, setup.task, setup.optimizer.trainable, features)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
