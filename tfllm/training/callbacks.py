"""What happens between steps: log, evaluate, sample, save. Plain objects, called when due."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from tfllm.training.checkpoint import Checkpointer
from tfllm.training.metrics_log import MetricsLog


@dataclasses.dataclass
class TrainerState:
    """Where a run stands.

    Args:
        step: Updates done.
        tokens: Weighted targets seen so far.
        window: Sums since the last log line: `loss`, `weight`, `grad_norm`, `steps`.
        learning_rate: Of the last update.
        train_seconds: Time spent in steps since the last log line.
        steps: Updates in the whole run.
    """

    step: int = 0
    tokens: float = 0.0
    window: dict[str, float] = dataclasses.field(default_factory=dict)
    learning_rate: float = 0.0
    train_seconds: float = 0.0
    steps: int = 0

    def add(self, metrics: np.ndarray) -> None:
        """Counts a call's steps: float32 [n, 4] in the order of `train_step.METRICS`."""
        sums = np.asarray(metrics, np.float64)
        for name, value in zip(("loss", "weight", "grad_norm"), sums[:, :3].sum(axis=0), strict=True):
            self.window[name] = self.window.get(name, 0.0) + float(value)
        self.window["steps"] = self.window.get("steps", 0) + len(sums)
        self.step += len(sums)
        self.tokens += float(sums[:, 1].sum())
        self.learning_rate = float(sums[-1, 3])

    def saved(self) -> dict[str, Any]:
        """What a checkpoint must hold for the next log line to come out the same."""
        return {
            "tokens": self.tokens,
            "window": self.window,
            "learning_rate": self.learning_rate,
            "train_seconds": self.train_seconds,
        }


class Callback(Protocol):
    """Called after step k * every, and after the last step."""

    every: int | None

    def __call__(self, state: TrainerState) -> None:
        """Does its work; must not change the model."""


class Log:
    """Writes a line of `metrics.jsonl`, the TensorBoard scalars and the progress display.

    Args:
        every: Steps between lines.
        log: The metrics file.
        writer: A TensorBoard writer.
        show: Receives the line, for the terminal.
        flops_per_token: Of forward and backward.
        peak_flops: Of all devices together.
    """

    def __init__(
        self,
        *,
        every: int,
        log: MetricsLog,
        writer: tf.summary.SummaryWriter,
        show: Callable[[dict[str, Any]], None],
        flops_per_token: float,
        peak_flops: float,
    ):
        self.every: int | None = every
        self.log = log
        self.writer = writer
        self.show = show
        self.flops_per_token = flops_per_token
        self.peak_flops = peak_flops

    def __call__(self, state: TrainerState) -> None:
        """Writes the means since the last line."""
        window = state.window
        if not window:
            return  # the last step was itself due
        rate = window["weight"] / state.train_seconds if state.train_seconds else 0.0
        entry = {
            "step": state.step,
            "split": "train",
            "loss": window["loss"] / window["weight"] if window["weight"] else 0.0,
            "learning_rate": state.learning_rate,
            "grad_norm": window["grad_norm"] / window["steps"],
            "tokens": round(state.tokens),
            "tokens_per_second": round(rate, 1),
            "mfu": round(rate * self.flops_per_token / self.peak_flops, 4),
        }
        self.log.write(entry)
        _write_scalars(self.writer, entry, state.step)
        self.show(entry)
        state.window, state.train_seconds = {}, 0.0


class Evaluate:
    """Runs the evaluator and logs its metrics.

    Args:
        every: Steps between evaluations; None: after the last step only.
        evaluate: Returns metrics by name.
        log: The metrics file.
        writer: A TensorBoard writer.
        show: Receives the line, for the terminal.
    """

    def __init__(
        self,
        *,
        every: int | None,
        evaluate: Callable[[], dict[str, float]],
        log: MetricsLog,
        writer: tf.summary.SummaryWriter,
        show: Callable[[dict[str, Any]], None],
    ):
        self.every = every
        self.evaluate = evaluate
        self.log = log
        self.writer = writer
        self.show = show

    def __call__(self, state: TrainerState) -> None:
        """Evaluates the whole split."""
        start = time.perf_counter()
        metrics = self.evaluate()
        seconds = round(time.perf_counter() - start, 2)
        entry = {"step": state.step, "split": "validation", **metrics, "seconds": seconds}
        self.log.write(entry)
        _write_scalars(self.writer, entry, state.step)
        self.show(entry)


class Sample:
    """Writes what the model says to `samples/step_00000100.txt` and to TensorBoard.

    Args:
        every: Steps between samples; None: after the last step only.
        sample: Returns (prompt, continuation) pairs.
        folder: The `samples/` folder.
        writer: A TensorBoard writer.
    """

    def __init__(
        self,
        *,
        every: int | None,
        sample: Callable[[], list[tuple[str, str]]],
        folder: str | Path,
        writer: tf.summary.SummaryWriter,
    ):
        self.every = every
        self.sample = sample
        self.folder = Path(folder)
        self.writer = writer

    def __call__(self, state: TrainerState) -> None:
        """Generates and writes."""
        texts = [f"{prompt}\u2502{continuation}" for prompt, continuation in self.sample()]
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{state.step:08d}.txt"
        path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
        with self.writer.as_default(step=state.step):
            for index, text in enumerate(texts):
                tf.summary.text(f"sample/{index}", text)


class Histograms:
    """Writes the distribution of every weight matrix to TensorBoard.

    Args:
        every: Steps between histograms; None writes none.
        variables: The trainable variables.
        writer: A TensorBoard writer.
    """

    def __init__(self, *, every: int, variables: list[Any], writer: tf.summary.SummaryWriter):
        self.every: int | None = every
        self.variables = variables
        self.writer = writer

    def __call__(self, state: TrainerState) -> None:
        """Writes one histogram a variable."""
        with self.writer.as_default(step=state.step):
            for variable in self.variables:
                tf.summary.histogram(f"weights/{variable.path}", variable.numpy())


class Save:
    """Writes a checkpoint.

    Args:
        every: Steps between checkpoints.
        checkpointer: Writes and rotates them.
    """

    def __init__(self, *, every: int, checkpointer: Checkpointer):
        self.every: int | None = every
        self.checkpointer = checkpointer

    def __call__(self, state: TrainerState) -> None:
        """Saves variables and state."""
        self.checkpointer.save(state.step, state.saved())


def _write_scalars(writer: tf.summary.SummaryWriter, entry: dict[str, Any], step: int) -> None:
    with writer.as_default(step=step):
        for name, value in entry.items():
            if name not in ("step", "split") and value is not None:
                tf.summary.scalar(f"{entry['split']}/{name}", value)
