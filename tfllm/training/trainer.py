"""The training loop: a compiled loop of steps inside, callbacks between."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.training.callbacks import Callback, Save, TrainerState
from tfllm.training.distribution import num_workers
from tfllm.training.early_stopping import EarlyStopping
from tfllm.training.errors import TrainingError
from tfllm.training.stop_request import StopRequest
from tfllm.training.train_step import METRICS, TrainStep, metric_names, metrics_by_name

_FAILED = METRICS.index("failed")
_CALL_SECONDS = (
    5.0  # the longest that a request to stop should wait for the loop, where steps are short enough
)


class Trainer:
    """Runs steps until the end, and each callback when it is due.

    Args:
        train_step: The step.
        batches: Returns the (distributed) dataset of batches from a given step on.
        steps: Updates in the whole run.
        steps_per_call: Steps inside one compiled loop at most; callbacks shorten it where they are due.
        callbacks: Called in order, and before a save: the order of log before save keeps a resumed log the same.
        save: The callback that saves; also called when the run is asked to stop.
        early_stopping: Says after an evaluation that the run has ended, before its last step; None goes to that.
        side_shows: Called last, once a checkpoint of the same step is on disk; one that fails, or takes the process
            with it, costs no weights.
        stop_request: Makes the context in which signals become requests to stop.
        on_failure: Keeps what is needed to look into a step that failed; returns words for the message.
        progress: Called with the state after each call of the compiled loop.
        notify: Called with one line when a side show fails.
    """

    def __init__(
        self,
        *,
        train_step: TrainStep,
        batches: Callable[[int], Any],
        steps: int,
        callbacks: Sequence[Callback],
        save: Save,
        early_stopping: EarlyStopping | None = None,
        side_shows: Sequence[Callback] = (),
        stop_request: Callable[[], StopRequest] = StopRequest,
        steps_per_call: int = 10,
        on_failure: Callable[[TrainerState], str] = lambda state: "",
        progress: Callable[[TrainerState], None] = lambda state: None,
        notify: Callable[[str], None] = print,
    ):
        self.train_step = train_step
        self.batches = batches
        self.steps = steps
        self.callbacks = [*callbacks, save]
        self.save = save
        self.early_stopping = early_stopping
        self.side_shows = list(side_shows)
        self.stop_request = stop_request
        self.steps_per_call = steps_per_call
        self.on_failure = on_failure
        self.progress = progress
        self.notify = notify
        self._step_seconds = 0.0
        # Calls of another length on each worker would hear of a request to stop at different steps.
        self._adapts = num_workers(train_step.strategy) == 1
        self._clock = _clock()
        self._loop = tf.function(self._run_steps, reduce_retracing=True, autograph=False)

    def run(self, state: TrainerState) -> str | None:
        """Trains from `state.step` to the end.

        Args:
            state: Where to start; changed in place.

        Returns:
            None at the end; else why training stopped before it, after a checkpoint was saved.

        Raises:
            TrainingError: when the loss or the gradient is no longer finite, naming step and rows.
            CheckpointError: when the last weights lie on no disk.
        """
        state.steps = self.steps
        iterator = iter(self.batches(state.step))
        with self.stop_request() as stop:
            for callback in self.callbacks:
                if state.step in callback.at:
                    callback(state)
            self._show([show for show in self.side_shows if state.step in show.at], state)
            while state.step < self.steps:
                others_stop = self._advance(state, iterator, stop.requested())
                self.progress(state)
                self._call_due(state)
                leaves = self._saves_to_leave(state, others_stop, stop)
                self._show([show for show in self.side_shows if self._is_due(show, state)], state)
                if leaves or self._saves_to_leave(state, others_stop, stop):
                    self.save.wait(last=True)
                    return stop.requested() or "another worker was asked to stop"
            self.save.wait(last=True)
        return None

    def _call_due(self, state: TrainerState) -> None:
        """Calls what is due; where an evaluation shows that the run has ended, all that has yet to be called then."""
        waiting: list[Callback] = []
        for callback in self.callbacks:
            if callback is self.save and self._ends_early(state):
                self.steps = state.steps = state.step
                for late in waiting:
                    late(state)
            if self._is_due(callback, state):
                callback(state)
            else:
                waiting.append(callback)

    def _ends_early(self, state: TrainerState) -> bool:
        if self.early_stopping is None:
            return False
        self.early_stopping.count(state)
        return self.early_stopping.ended(state)

    def _saves_to_leave(self, state: TrainerState, others_stop: bool, stop: StopRequest) -> bool:
        """Whether the run is asked to stop before its end; then its weights are saved."""
        leaves = state.step < self.steps and bool(others_stop or (self._adapts and stop.requested()))
        if leaves and state.saved_step != state.step:
            self.save(state)
        return leaves

    def _show(self, shows: Sequence[Callback], state: TrainerState) -> None:
        if shows and state.saved_step == state.step:
            self.save.wait(last=state.step == self.steps)
        for show in shows:
            try:
                show(state)
            except Exception as error:
                first = (str(error).strip() or type(error).__name__).splitlines()[0]
                self.notify(
                    f"step {state.step}: {type(show).__name__.lower()} failed ({first}); the run goes on"
                )

    def _advance(self, state: TrainerState, iterator: Any, reason: str | None) -> bool:
        """Runs the steps up to the next stop; returns whether some worker was asked to stop."""
        start = time.perf_counter()
        count = self._steps_to_next_stop(state.step)
        stop = tf.constant(1.0 if reason else 0.0)
        rows, waited = self._loop(iterator, tf.constant(count), stop)
        rows, waited = rows.numpy(), float(waited)
        failed = rows[:, _FAILED] > 0
        good = int(np.argmax(failed)) if failed.any() else len(rows)
        seconds = time.perf_counter() - start
        state.add(rows[:good], self.train_step.terms)
        state.spend("input", waited)
        state.spend("step", seconds - waited)
        if failed.any():
            self._stop_failed(state, rows[good])
        self._step_seconds = seconds / count
        return bool(rows[:, METRICS.index("stop")].any())

    def _run_steps(self, iterator: Any, count: tf.Tensor, stop: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        width = len(metric_names(self.train_step.terms))
        rows = tf.TensorArray(tf.float32, size=count, element_shape=[width])

        def body(index, going, waited, rows):
            before = self._clock()
            features = next(iterator)
            waited += self._clock() - before
            metrics = self.train_step(features, stop)
            return index + 1, metrics[_FAILED] == 0, waited, rows.write(index, metrics)

        # Rows after a failed step stay zero, and no further step is taken.
        start = (tf.constant(0), tf.constant(True), tf.constant(0.0, tf.float64), rows)
        _, _, waited, rows = tf.while_loop(lambda i, going, *_: going & (i < count), body, start)
        return rows.stack(), waited

    def _steps_to_next_stop(self, step: int) -> int:
        longest = self.steps_per_call
        if self._adapts and self._step_seconds:
            longest = min(longest, max(1, int(_CALL_SECONDS / self._step_seconds)))
        stops = [self.steps, step + longest]
        called = [*self.callbacks, *self.side_shows]
        stops += [(step // c.every + 1) * c.every for c in called if c.every]
        stops += [at for c in called for at in c.at if at > step]
        return min(stops) - step

    def _is_due(self, callback: Callback, state: TrainerState) -> bool:
        if callback is self.save and self.save.improves(state):
            return True
        every = bool(callback.every and state.step % callback.every == 0)
        return every or state.step == self.steps or state.step in callback.at

    def _stop_failed(self, state: TrainerState, row: np.ndarray) -> None:
        numbers = {
            name: column[0] for name, column in metrics_by_name(row[None], self.train_step.terms).items()
        }
        weight = numbers["weight_sum"]
        loss = numbers["loss_sum"] / weight if weight else numbers["loss_sum"]
        self.save.wait()
        words = self.on_failure(state)
        kept = self.save.checkpointer.paths()
        raise TrainingError(
            f"step {state.step + 1}: loss {loss:g}, gradient norm {numbers['grad_norm']:g}: not finite, so the"
            f" run stops{words}. The last good checkpoint is {kept[-1] if kept else 'none yet'}."
            f" Lower optimizer.learning_rate, set optimizer.clip_norm, or look at those rows"
        )


def _clock() -> Callable[[], tf.Tensor]:
    """What tells the seconds inside a graph: TensorFlow's clock or, where ops must be deterministic, Python's.

    With determinism on, by the config or by TF_DETERMINISTIC_OPS, TensorFlow refuses to tell the time. Its
    own clock is the better one where it may be asked: Python's waits for whatever thread runs Python.
    """
    try:
        tf.timestamp()
    except tf.errors.OpError:
        return lambda: tf.ensure_shape(tf.numpy_function(time.perf_counter, [], tf.float64), [])
    return tf.timestamp
