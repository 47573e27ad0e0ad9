"""Everything a training needs, made in order: strategy, text, model, optimizer, step, checkpoints."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfllm.config import ConfigError, ExperimentConfig, Problem
from tfllm.config.build import to_mapping
from tfllm.data.pipeline import training_batches
from tfllm.experiment.base import base_of, check_base, has_base, saved_variables
from tfllm.experiment.build import build, check_builders
from tfllm.experiment.checks import best_metric, check_late, template_notices
from tfllm.experiment.epochs import with_steps
from tfllm.experiment.labels import with_labels
from tfllm.experiment.model import make_model, rank_allocator
from tfllm.experiment.model_source import start_from_source
from tfllm.experiment.overlap import overlaps
from tfllm.experiment.parts import make_optimizer_of, make_task
from tfllm.experiment.reference import give_reference
from tfllm.experiment.run_folder import RunFolder
from tfllm.experiment.run_lock import locked_run
from tfllm.experiment.source import make_source
from tfllm.experiment.text import Prepared, prepare
from tfllm.experiment.text_places import folder_of_text
from tfllm.experiment.tokenizer import make_tokenizer
from tfllm.export.signatures import Limits
from tfllm.tokenizers import read_tokenizer
from tfllm.training.callbacks import TrainerState
from tfllm.training.checkpoint import Checkpointer, Restored
from tfllm.training.display import Display
from tfllm.training.distribution import (
    check_agreement,
    gather_from_workers,
    is_chief,
    num_workers,
    shares_of,
)
from tfllm.training.errors import TrainingError
from tfllm.training.loss_scale import LossScale
from tfllm.training.train_step import TrainStep
from tfllm.version import __version__

_MENDS = {
    "config": "start every worker with the same YAML and overrides (distribution.index may differ)",
    "text or tokenizer": "give every worker the same files, or a data.cache_dir and run folder that they share",
    "version of tfllm, TensorFlow or Keras": "install the same versions everywhere",
    "checkpoint": "put the run folder on storage that all workers share",
}


@contextlib.contextmanager
def set_up(
    config: ExperimentConfig, folder: Path, display: Display, *, records: bool = True
) -> Iterator[TrainingSetup]:
    """Makes the strategy and the text, checks that all workers mean the same run, and makes the rest.

    Args:
        config: The experiment.
        folder: The run folder; made where it does not exist.
        display: Receives progress.
        records: Write the config into the folder, and refuse a folder that holds another run.

    Raises:
        ConfigError, DataError, TokenizerError, TrainingError: each with one message to act on.
    """
    if config.training.deterministic:
        tf.config.experimental.enable_op_determinism()
    strategy = build(config.distribution, at="distribution")
    check_builders(config)  # behind the strategy: what is imported here may start TensorFlow
    _check_batch(config, strategy)
    run = RunFolder(folder)
    chief = is_chief(strategy)
    if num_workers(strategy) > 1:
        check_agreement(strategy, _fingerprints(config), mends=_MENDS)
    if not chief:
        display = Display(total_steps=config.training.steps, silent=True)
    config = with_labels(config, notify=display.notice)
    with contextlib.ExitStack() as stack:
        if chief and records:
            stack.enter_context(locked_run(folder, notify=display.notice))
        if chief:
            prepared = _prepare(config, run, display, records)
        # The others find the chief's tokenizer and rows where they share a disk, and make their own elsewhere.
        gather_from_workers(strategy, [0])
        if not chief:
            prepared = _prepare(config, run, display, records=False)
        config = with_steps(config, prepared.train.num_rows, notify=display.notice)
        display.total_steps = config.training.steps
        if chief and records:
            run.open_for(config)
        setup = TrainingSetup(config, run, strategy, prepared, display)
        stack.callback(setup.checkpointer.settle)  # what still writes holds the lock
        yield setup


class TrainingSetup:
    """One training's objects.

    Args:
        config: The experiment.
        run: The run folder.
        strategy: The strategy.
        prepared: Tokenizer and rows.
        display: Receives notices.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        run: RunFolder,
        strategy: tf.distribute.Strategy,
        prepared: Prepared,
        display: Display,
    ):
        self.config, self.run_folder, self.strategy = config, run, strategy
        self.prepared, self.display = prepared, display
        self._base: dict[str, Any] | None = None
        self.is_chief = is_chief(strategy)
        precision = config.training.precision
        with strategy.scope():
            self.model = make_model(config, prepared.tokenizer.vocab_size, training=True)
            self.optimizer = make_optimizer_of(config, self.model)
            self.loss_scale = LossScale() if precision == "mixed_float16" else None
        if config.export.at_end and config.task.labels is None and config.kind != "encoder":
            Limits.of(self.model, config.export.max_new_tokens)
        self.task = make_task(config, prepared.tokenizer)
        self.step = self._make_step()
        training = config.training
        self.best = best_metric(config, self.task)
        if self.best is not None and training.evaluate_every is None:
            display.notice(
                "training.best_metric: the only evaluation is that of the end, so the last checkpoint is the best; set"
                " training.evaluate_every"
            )
        self.checkpointer = self.make_checkpointer(
            run.checkpoints, keep=training.keep_checkpoints, best=self.best
        )

    def restored_state(self) -> TrainerState:
        """Reads the last checkpoint, or the weights that `model.source` names, into the variables.

        Of a model that is frozen but for a part, checkpoints hold that part, and its source all else.
        """
        self.fill_base()
        if getattr(self.task, "needs_reference", False):
            self._give_reference()
        restored = self.checkpointer.restore()
        step = 0 if restored is None else restored.step
        if num_workers(self.strategy) > 1:
            data = [self.prepared.tokenizer.fingerprint, *self._data_keys().values()]
            numbers = {"text or tokenizer": _hash(repr(data)), "checkpoint": step}
            check_agreement(self.strategy, numbers, mends=_MENDS)
        if restored is not None:
            self._check_data(restored)
        if self.is_chief:
            self.run_folder.keep(self.config)
        if restored is None:
            if self.config.model.source is not None and not has_base(self.config):
                self._start_from_source()
            return TrainerState()
        if has_base(self.config):
            recorded, source = restored.about.get("base") or {}, str(self.config.model.source)
            check_base(recorded.get("sample"), self.model, what=str(restored.path), source=source)
        self.display.notice(f"going on from {restored.path}")
        return TrainerState(step=restored.step, saved_step=restored.step, **restored.state)

    def fill_base(self) -> None:
        """Reads what checkpoints leave out, where they do."""
        if has_base(self.config):
            self._start_from_source()
            self.checkpointer.about["base"] = self._base = base_of(self.config, self.model)

    def _give_reference(self) -> None:
        def at_start() -> Any:
            if not has_base(self.config):
                start_from_source(self.config, self.model, notify=self.display.notice)
            return self.model

        give_reference(
            self.config,
            self.task,
            list(self.prepared.sides.values()),
            path=self.run_folder.reference,
            at_start=at_start,
            writes=self.is_chief,
        )

    def _start_from_source(self) -> None:
        start_from_source(self.config, self.model, notify=self.display.notice)
        self.display.notice(f"weights from {self.config.model.source}")

    def batches(self, start_step: int, num_steps: int) -> Any:
        """The batches from a step on, shared out among the replicas."""
        if self.strategy.num_replicas_in_sync == 1:
            return self.plain_batches(start_step, num_steps)

        def of_pipeline(context: tf.distribute.InputContext) -> tf.data.Dataset:
            shares = shares_of(context, self.strategy)
            replicas = self.strategy.num_replicas_in_sync
            return self.plain_batches(start_step, num_steps, num_shares=replicas, shares=shares)

        return self.strategy.distribute_datasets_from_function(of_pipeline)

    def plain_batches(self, start_step: int, num_steps: int, **shares: Any) -> tf.data.Dataset:
        """The same, whole, or the shares asked for."""
        return training_batches(
            self.prepared.train,
            global_batch_size=self.config.training.global_batch_size,
            seed=self.config.seed,
            start_step=start_step,
            num_steps=num_steps,
            transform=self.task.features,
            aligned=self.task.aligned,
            **shares,
        )

    def make_checkpointer(self, folder: Path, **settings: Any) -> Checkpointer:
        """Builds what saves all variables of the training under a folder."""
        named: dict[str, Any] = saved_variables(self.config, self.model)
        named |= {f"optimizer/{name}": v for name, v in self.optimizer.named_variables.items()}
        if self.loss_scale is not None:
            named |= {f"loss_scale/{name}": v for name, v in self.loss_scale.named_variables.items()}
        return Checkpointer(
            folder,
            named,
            on_error=self.config.training.on_save_error,
            about={
                "config": to_mapping(self.config),
                "versions": _versions(),
                "data": self._data_keys(),
                "rows": self._row_contents(),
                "folder": folder_of_text(self.run_folder),
                **({} if self._base is None else {"base": self._base}),
            },
            writes=self.is_chief,
            notify=self.display.notice,
            **settings,
        )

    def _check_data(self, restored: Restored) -> None:
        """The order of rows means nothing over other rows."""
        recorded = restored.about.get("rows")
        keys = self._row_contents()
        if recorded is None:  # a checkpoint of an earlier version
            recorded, keys = restored.about.get("data", {}), self._data_keys()
        for name, key in keys.items():
            there = recorded.get(name)
            if there is not None and there != key:
                rows = self.prepared.sides[name]
                raise TrainingError(
                    f"the {name} rows have changed since {restored.path} was written ({there[:12]} there,"
                    f" {key[:12]} now, {rows.summary}); name the run's own text, under whatever path it has now, or"
                    " train into another --run-dir with model.source set to this one. Nothing in the run was changed"
                )

    def _data_keys(self) -> dict[str, str]:
        return {side: rows.identity for side, rows in self.prepared.sides.items()}

    def _row_contents(self) -> dict[str, str]:
        return {side: rows.content for side, rows in self.prepared.sides.items()}

    def _make_step(self) -> TrainStep:
        training = self.config.training
        shares = self.strategy.num_replicas_in_sync * (training.microbatch_size or training.global_batch_size)
        ranks = rank_allocator(self.config, self.model)
        return TrainStep(
            model=self.model,
            task=self.task,
            optimizer=self.optimizer,
            strategy=self.strategy,
            clip_norm=self.config.optimizer.clip_norm,
            skip_above=self.config.optimizer.skip_above,
            num_microbatches=max(1, training.global_batch_size // shares),
            loss_scale=self.loss_scale,
            penalty=None if ranks is None else ranks.penalty,
            after_update=None if ranks is None else ranks.changes,
            jit_compile=training.jit_compile,
        )


def _prepare(config: ExperimentConfig, run: RunFolder, display: Display, records: bool) -> Prepared:
    """Tokenizer and rows; between the two, before anything is written, what would fail late."""
    start = time.perf_counter()
    if records:
        run.check(config)
    kept = run.tokenizer.exists()
    source = make_source(config.data.train)
    tokenizer = read_tokenizer(run.tokenizer) if kept else make_tokenizer(config, source)
    check_late(config, tokenizer, make_task(config, tokenizer), run.export)
    if records:
        run.open_for(config)
    prepared = prepare(config, tokenizer, source=source)
    if not kept:
        part = run.tokenizer.with_name(f".part_tokenizer_{os.getpid()}")
        shutil.rmtree(part, ignore_errors=True)
        tokenizer.save(part)
        part.rename(run.tokenizer)  # whole or not there, should the process be killed
    if not kept:
        for line in overlaps(config, source):
            display.notice(line)
    if getattr(config.task, "chats", False):
        for line in template_notices(tokenizer):
            display.notice(line)
    for name, rows in prepared.sides.items():
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
