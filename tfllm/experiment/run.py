"""A run in its folder: trained to its end, or gone on with after a stop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfllm.config import ExperimentConfig
from tfllm.data.store import RowStore
from tfllm.evaluation.evaluator import Evaluator
from tfllm.experiment.checks import sample_ids
from tfllm.experiment.cost import flops_per_token
from tfllm.experiment.parts import make_evaluator, make_generator
from tfllm.experiment.pictures import draw_lengths
from tfllm.experiment.setup import TrainingSetup, set_up
from tfllm.training.callbacks import (
    Callback,
    Evaluate,
    Histograms,
    Log,
    Profile,
    Sample,
    Save,
    TrainerState,
    Writer,
)
from tfllm.training.display import Display
from tfllm.training.distribution import num_workers, worker_errors
from tfllm.training.early_stopping import EarlyStopping
from tfllm.training.errors import TrainingError
from tfllm.training.metrics_log import MetricsLog, NoLog
from tfllm.training.peak_memory import memory_errors
from tfllm.training.replay import save_batch
from tfllm.training.stop_request import StopRequest
from tfllm.training.tensorboard import TensorBoard
from tfllm.training.throughput import peak_flops
from tfllm.training.trainer import Trainer


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
    with memory_errors(), worker_errors(), set_up(config, Path(run_dir), display) as setup:
        return Outcome(_Run(setup).run(), setup.is_chief)


class _Run:
    """A setup with the callbacks of a training around it."""

    def __init__(self, setup: TrainingSetup):
        self.setup = setup
        self.config, self.run_folder, self.display = setup.config, setup.run_folder, setup.display

    def run(self) -> str | None:
        """Trains to the end."""
        state = self.setup.restored_state()
        if state.step >= self.config.training.steps:
            self.display.notice(f"{self.run_folder.path} is already trained to step {state.step}")
            return None
        early_stopping = self._early_stopping()
        if early_stopping is not None and early_stopping.ended(state):
            self._say_early(state)
            return None
        writer = self._writer()
        logging, evaluate = self._callbacks(state, writer)
        trainer = self._trainer([logging, evaluate], early_stopping, writer)
        self.display.start(state)
        try:
            if state.step == 0:
                evaluate(state)
            stopped_by = trainer.run(state)
            if stopped_by is None and self.setup.is_chief:
                self._draw_lengths()
            if stopped_by is None and state.step < self.config.training.steps:
                self._say_early(state)
            return stopped_by
        finally:
            writer.close()
            self.display.stop()

    def _early_stopping(self) -> EarlyStopping | None:
        patience, best = self.config.training.early_stopping, self.setup.best
        return None if patience is None or best is None else EarlyStopping(best, patience)

    def _draw_lengths(self) -> None:
        """Of texts that are read whole: others are cut into rows."""
        if self.config.task.labels is not None or len(self.config.task.text_columns) > 1:
            path = self.run_folder.pictures / "lengths.png"
            draw_lengths(path, self.setup.prepared.train, notify=self.display.notice)

    def _say_early(self, state: TrainerState) -> None:
        best = self.config.training.best_metric
        self.display.notice(
            f"ended at step {state.step} of {self.config.training.steps}: {best} has not got better than"
            f" {state.best_value:.5g} in {state.waited} evaluations (training.early_stopping)"
        )

    def _trainer(
        self, callbacks: list[Callback], early_stopping: EarlyStopping | None, writer: Writer
    ) -> Trainer:
        training = self.config.training
        return Trainer(
            train_step=self.setup.step,
            batches=lambda start: self.setup.batches(start, training.steps),
            steps=training.steps,
            steps_per_call=training.steps_per_call,
            callbacks=callbacks,
            save=Save(
                every=training.checkpoint_every, checkpointer=self.setup.checkpointer, best=self.setup.best
            ),
            early_stopping=early_stopping,
            side_shows=self._side_shows(writer),
            stop_request=lambda: StopRequest(notice=training.preemption_notice, notify=self.display.notice),
            on_failure=self._keep_failure,
            progress=self.display.progress,
            notify=self.display.notice,
        )

    def _writer(self) -> Writer:
        if not self.setup.is_chief:
            return tf.summary.create_noop_writer()
        return TensorBoard(self.run_folder.tensorboard, notify=self.display.notice)

    def _callbacks(self, state: TrainerState, writer: Writer) -> tuple[Log, Evaluate]:
        """The chief writes; every worker takes part in what computes over all of them."""
        config, training, show = self.config, self.config.training, self.display.entry
        log: Any = NoLog()
        if self.setup.is_chief:
            log = MetricsLog(self.run_folder.metrics, step=state.step, notify=self.display.notice)
        evaluate = Evaluate(
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
            flops_per_token=flops_per_token(self.setup.model, config.data.seq_len),
            peak_flops=peak_flops(training.precision) * _devices(self.setup.strategy),
            scaled=self.setup.loss_scale is not None,
        )
        return logging, evaluate

    def _side_shows(self, writer: Writer) -> list[Callback]:
        """What the chief shows besides."""
        config, training = self.config, self.config.training
        shows: list[Callback] = []
        if not self.setup.is_chief:
            return shows
        if config.generation.prompts:
            folder = self.run_folder.samples
            shows.append(
                Sample(every=training.sample_every, sample=self._sampler(), folder=folder, writer=writer)
            )
        if training.histogram_every:
            variables = self.setup.model.trainable_variables
            shows.append(Histograms(every=training.histogram_every, variables=variables, writer=writer))
        if training.profile is not None:
            shows.append(Profile(steps=training.profile, folder=self.run_folder.tensorboard))
        return shows

    def _evaluator(self) -> Evaluator:
        return make_evaluator(
            self.config,
            self.setup.model,
            self.setup.task,
            self.setup.prepared.validation,
            tokenizer=self.setup.prepared.tokenizer,
            strategy=self.setup.strategy,
            averaged=self.setup.optimizer.averaged,
        )

    def _sampler(self) -> Callable[[], list[tuple[str, str]]]:
        settings = dataclasses.asdict(self.config.generation)
        prompts, stop_tokens = settings.pop("prompts"), settings.pop("stop_tokens")
        tokenizer = self.setup.prepared.tokenizer
        generator = make_generator(self.setup.model, tokenizer, stop_tokens, jit_compile=False)

        def sample() -> list[tuple[str, str]]:
            ids = [sample_ids(self.config, tokenizer, self.setup.task, prompt) for prompt in prompts]
            with self.setup.optimizer.averaged():
                return list(zip(prompts, map(tokenizer.decode, generator(ids, **settings)), strict=True))

        return sample

    def _keep_failure(self, state: TrainerState) -> str:
        """Keeps weights and batch of a failed step for `--replay`."""
        batch = next(iter(self.setup.plain_batches(state.step, state.step + 1)))
        row_ids, source_ids = batch["row_ids"].numpy()[:16], batch["source_ids"].numpy()[:16]
        one = isinstance(self.setup.prepared.train, RowStore)
        pairs = zip(source_ids, row_ids, strict=True)
        rows = ", ".join(str(row) if one else f"{row} of source {source}" for source, row in pairs)
        words = f" (batch {state.step}: rows {rows} of {self.setup.prepared.train.path})"
        if not self.setup.is_chief:
            return words
        folder = self.run_folder.failures
        try:
            save_batch(folder / f"batch_{state.step:08d}.npz", batch)
            keeper = self.setup.make_checkpointer(folder, keep=1)
            keeper.save(state.step, state.saved())
            keeper.wait()
        except (OSError, TrainingError) as error:
            return f"{words}; the step could not be kept for a replay ({error})"
        return f"{words}; see the step from inside: the same command with --replay"


def _devices(strategy: tf.distribute.Strategy) -> int:
    # Logical CPU devices share the cores of one machine.
    return strategy.num_replicas_in_sync if tf.config.list_physical_devices("GPU") else num_workers(strategy)
