"""What happens between steps: log, evaluate, sample, save. Plain objects, called when due."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import tensorflow as tf

from tfllm.training.checkpoint import Checkpointer
from tfllm.training.metrics_log import MetricsLog
from tfllm.training.peak_memory import peak_memory_bytes
from tfllm.training.tensorboard import TensorBoard
from tfllm.training.train_step import metrics_by_name

Writer: TypeAlias = TensorBoard | tf.summary.SummaryWriter


@dataclasses.dataclass
class TrainerState:
    """Where a run stands.

    Args:
        step: Updates done.
        tokens: Weighted targets seen so far.
        window: Sums since the last log line, by name; `steps` counts them.
        learning_rate: Of the last update.
        loss_scale: Of the last update.
        seconds: Time since the last log line, by what it was spent on: step, input, evaluate, save, …
        validation: The newest validation metrics.
        validated_step: The step they belong to.
        best_value: The best value of the metric that says when to stop early.
        waited: Evaluations since then.
        judged_step: The step of the last that was counted.
        steps: Updates in the whole run.
        saved_step: The last step that a checkpoint was made of.
    """

    step: int = 0
    tokens: float = 0.0
    window: dict[str, float] = dataclasses.field(default_factory=dict)
    learning_rate: float = 0.0
    loss_scale: float = 1.0
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    validation: dict[str, float] = dataclasses.field(default_factory=dict)
    validated_step: int = -1
    best_value: float | None = None
    waited: int = 0
    judged_step: int = -1
    steps: int = 0
    saved_step: int = -1

    def add(self, rows: np.ndarray, terms: Sequence[str] = ()) -> None:
        """Counts a call's steps: float32 [n, M] in the order of `train_step.metric_names(terms)`."""
        if not len(rows):
            return
        numbers = metrics_by_name(rows, terms)
        numbers["grad_norm"] = np.where(np.isfinite(numbers["grad_norm"]), numbers["grad_norm"], 0.0)
        for name in (
            "loss_sum",
            "weight_sum",
            "real_tokens",
            "positions",
            "grad_norm",
            "update_ratio",
            "skipped",
            *(name for name in numbers if "_sum/" in name),
        ):
            self.window[name] = self.window.get(name, 0.0) + float(numbers[name].sum())
        self.window["steps"] = self.window.get("steps", 0) + len(rows)
        self.step += len(rows)
        self.tokens += float(numbers["weight_sum"].sum())
        self.learning_rate = float(numbers["learning_rate"][-1])
        self.loss_scale = float(numbers["loss_scale"][-1])

    def spend(self, purpose: str, seconds: float) -> None:
        """Adds to the time spent on something."""
        self.seconds[purpose] = self.seconds.get(purpose, 0.0) + seconds

    def saved(self) -> dict[str, Any]:
        """What a checkpoint must hold for the next log line to come out the same."""
        names = ("tokens", "window", "learning_rate", "loss_scale", "seconds", "validation", "validated_step")
        early = ("best_value", "waited", "judged_step") if self.judged_step >= 0 else ()
        return {name: copy.copy(getattr(self, name)) for name in (*names, *early)}


class Callback(Protocol):
    """Called after step k * every, at the steps in `at`, and after the last step."""

    every: int | None
    at: tuple[int, ...]

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
        scaled: Whether the loss is scaled, so that its scale is worth a number.
    """

    at: tuple[int, ...] = ()

    def __init__(
        self,
        *,
        every: int,
        log: MetricsLog,
        writer: Writer,
        show: Callable[[dict[str, Any]], None],
        flops_per_token: float,
        peak_flops: float,
        scaled: bool = False,
    ):
        self.every: int | None = every
        self.log = log
        self.writer = writer
        self.show = show
        self.flops_per_token = flops_per_token
        self.peak_flops = peak_flops
        self.scaled = scaled

    def __call__(self, state: TrainerState) -> None:
        """Writes the means since the last line."""
        window = state.window
        if not window:
            return  # the last step was itself due
        steps, weight = window["steps"], window["weight_sum"]
        entry = {
            "step": state.step,
            "split": "train",
            "loss": window["loss_sum"] / weight if weight else 0.0,
            **term_losses(window),
            "learning_rate": state.learning_rate,
            "grad_norm": window["grad_norm"] / steps,
            "update_ratio": window["update_ratio"] / steps,
            "tokens": round(state.tokens),
            **({"loss_scale": state.loss_scale} if self.scaled else {}),
            **({"skipped_steps": round(window["skipped"])} if window["skipped"] else {}),
            **self._times(state),
        }
        self.log.write(entry)
        _write_scalars(self.writer, entry, state.step)
        self.show(entry)
        state.window, state.seconds = {}, {}

    def _times(self, state: TrainerState) -> dict[str, float]:
        seconds = state.seconds
        training = seconds.get("step", 0.0) + seconds.get("input", 0.0)
        useful = state.window["real_tokens"] / training if training else 0.0
        return {
            "tokens_per_second": round(state.window["positions"] / training, 1) if training else 0.0,
            "useful_tokens_per_second": round(useful, 1),
            "mfu": round(useful * self.flops_per_token / self.peak_flops, 4),
            "input_wait": round(seconds.get("input", 0.0) / training, 4) if training else 0.0,
            "memory_gb": round(peak_memory_bytes() / 1e9, 3),
            **{f"{purpose}_seconds": round(spent, 3) for purpose, spent in seconds.items()},
        }


class Evaluate:
    """Runs the evaluator and logs its metrics.

    Args:
        every: Steps between evaluations; None: after the last step only.
        evaluate: Returns metrics by name.
        log: The metrics file.
        writer: A TensorBoard writer.
        show: Receives the line, for the terminal.
    """

    at: tuple[int, ...] = ()

    def __init__(
        self,
        *,
        every: int | None,
        evaluate: Callable[[], dict[str, float]],
        log: MetricsLog,
        writer: Writer,
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
        seconds = time.perf_counter() - start
        state.spend("evaluate", seconds)
        state.validation, state.validated_step = dict(metrics), state.step
        entry = {"step": state.step, "split": "validation", **metrics, "seconds": round(seconds, 2)}
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

    at: tuple[int, ...] = ()

    def __init__(
        self,
        *,
        every: int | None,
        sample: Callable[[], list[tuple[str, str]]],
        folder: str | Path,
        writer: Writer,
    ):
        self.every = every
        self.sample = sample
        self.folder = Path(folder)
        self.writer = writer

    def __call__(self, state: TrainerState) -> None:
        """Generates and writes."""
        start = time.perf_counter()
        texts = [f"{prompt}\u2502{continuation}" for prompt, continuation in self.sample()]
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{state.step:08d}.txt"
        path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
        with self.writer.as_default(step=state.step):
            for index, text in enumerate(texts):
                tf.summary.text(f"sample/{index}", text)
        state.spend("sample", time.perf_counter() - start)


class Histograms:
    """Writes the distribution of every weight matrix to TensorBoard.

    Args:
        every: Steps between histograms; None writes none.
        variables: The trainable variables.
        writer: A TensorBoard writer.
    """

    at: tuple[int, ...] = ()

    def __init__(self, *, every: int, variables: list[Any], writer: Writer):
        self.every: int | None = every
        self.variables = variables
        self.writer = writer

    def __call__(self, state: TrainerState) -> None:
        """Writes one histogram a variable."""
        with self.writer.as_default(step=state.step):
            for variable in self.variables:
                tf.summary.histogram(f"weights/{variable.path}", variable.numpy())


class Profile:
    """Writes a TensorBoard profile of some steps.

    Args:
        steps: The first and the last step profiled.
        folder: The `tensorboard/` folder.
    """

    def __init__(self, *, steps: tuple[int, ...], folder: str | Path):
        self.at: tuple[int, ...] = (steps[0] - 1, steps[1])
        self.every: int | None = None
        self.folder = str(folder)
        self._on = False

    def __call__(self, state: TrainerState) -> None:
        """Starts before the first step and stops after the last."""
        if self._on:
            tf.profiler.experimental.stop()
        elif state.step == self.at[0]:
            tf.profiler.experimental.start(self.folder)
        self._on = not self._on and state.step == self.at[0]


class Save:
    """Writes a checkpoint.

    Args:
        every: Steps between checkpoints.
        checkpointer: Writes and rotates them.
        best: The validation metric whose best checkpoint is kept, and `min` or `max`; None keeps none.
    """

    at: tuple[int, ...] = ()

    def __init__(self, *, every: int, checkpointer: Checkpointer, best: tuple[str, str] | None = None):
        self.every: int | None = every
        self.checkpointer = checkpointer
        self.best = best

    def improves(self, state: TrainerState) -> bool:
        """Whether the evaluation of this very step is the best so far."""
        if self.best is None or state.validated_step != state.step:
            return False
        return self.checkpointer.is_better(state.validation)

    def __call__(self, state: TrainerState) -> None:
        """Saves variables and state; the files are written while training goes on."""
        start = time.perf_counter()
        metrics = state.validation if state.validated_step == state.step else {}
        self.checkpointer.save(state.step, state.saved(), metrics=metrics)
        state.saved_step = state.step
        state.spend("save", time.perf_counter() - start)

    def wait(self, *, last: bool = False) -> None:
        """Waits until the last checkpoint is on disk; see `Checkpointer.wait`."""
        self.checkpointer.wait(last=last)


def _write_scalars(writer: Writer, entry: dict[str, Any], step: int) -> None:
    with writer.as_default(step=step):
        for name, value in entry.items():
            if name not in ("step", "split") and value is not None:
                tf.summary.scalar(f"{entry['split']}/{name}", value)


def term_losses(window: dict[str, float]) -> dict[str, float]:
    """The mean of each term of a loss that has several."""
    terms = [name.partition("/")[2] for name in window if name.startswith("loss_sum/")]
    means = {}
    for term in terms:
        weight = window[f"weight_sum/{term}"]
        means[f"{term}_loss"] = window[f"loss_sum/{term}"] / weight if weight else 0.0
    return means
