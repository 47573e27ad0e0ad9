"""The training loop: a compiled loop of steps inside, callbacks between."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.training.callbacks import Callback, Save, TrainerState
from tfllm.training.errors import TrainingError
from tfllm.training.train_step import METRICS, TrainStep


class Trainer:
    """Runs steps until the end, and each callback when it is due.

    Args:
        train_step: The step.
        batches: Returns the (distributed) dataset of batches from a given step on.
        steps: Updates in the whole run.
        steps_per_call: Steps inside one compiled loop; callbacks shorten it where they are due.
        callbacks: Called in order; the order of log before save keeps a resumed log the same.
        save: The callback that saves; also called on Ctrl-C.
        describe_batch: Says which rows a step's batch holds, for the message of a run that diverged.
        progress: Called with the state after each call of the compiled loop.
    """

    def __init__(
        self,
        *,
        train_step: TrainStep,
        batches: Callable[[int], Any],
        steps: int,
        callbacks: Sequence[Callback],
        save: Save,
        steps_per_call: int = 10,
        describe_batch: Callable[[int], str] = lambda step: "",
        progress: Callable[[TrainerState], None] = lambda state: None,
    ):
        self.train_step = train_step
        self.batches = batches
        self.steps = steps
        self.callbacks = [*callbacks, save]
        self.save = save
        self.steps_per_call = steps_per_call
        self.describe_batch = describe_batch
        self.progress = progress
        self._loop = tf.function(self._run_steps, reduce_retracing=True)

    def run(self, state: TrainerState) -> bool:
        """Trains from `state.step` to the end.

        Args:
            state: Where to start; changed in place.

        Returns:
            True at the end; False when Ctrl-C stopped it, after a checkpoint was saved.

        Raises:
            TrainingError: when the loss or the gradient is no longer finite, naming step and rows.
        """
        state.steps = self.steps
        iterator = iter(self.batches(state.step))
        with _interrupts() as interrupted:
            while state.step < self.steps:
                self._advance(state, iterator)
                self.progress(state)
                for callback in self.callbacks:
                    if self._is_due(callback, state.step):
                        callback(state)
                if interrupted() and state.step < self.steps:
                    if not self._is_due(self.save, state.step):
                        self.save(state)
                    self.save.checkpointer.wait()
                    return False
        self.save.checkpointer.wait()
        return True

    def _advance(self, state: TrainerState, iterator: Any) -> None:
        start = time.perf_counter()
        count = self._steps_to_next_stop(state.step)
        metrics = self._loop(iterator, tf.constant(count)).numpy()
        done = np.isfinite(metrics[:, :3]).all(axis=1)
        if not done.all():
            self._stop_diverged(state.step + int(np.argmin(done)), metrics[np.argmin(done)])
        state.train_seconds += time.perf_counter() - start
        state.add(metrics)

    def _run_steps(self, iterator: Any, count: tf.Tensor) -> tf.Tensor:
        rows = tf.TensorArray(tf.float32, size=count, element_shape=[len(METRICS)])

        def body(index, finite, rows):
            metrics = self.train_step(next(iterator))
            return index + 1, tf.reduce_all(tf.math.is_finite(metrics)), rows.write(index, metrics)

        # Rows after a non-finite step stay zero, and no further step is taken.
        start = (tf.constant(0), tf.constant(True), rows)
        return tf.while_loop(lambda i, finite, _: finite & (i < count), body, start)[2].stack()

    def _steps_to_next_stop(self, step: int) -> int:
        stops = [self.steps, step + self.steps_per_call]
        stops += [(step // c.every + 1) * c.every for c in self.callbacks if c.every]
        return min(stops) - step

    def _is_due(self, callback: Callback, step: int) -> bool:
        return step == self.steps or bool(callback.every and step % callback.every == 0)

    def _stop_diverged(self, step: int, metrics: np.ndarray) -> None:
        loss = metrics[0] / metrics[1] if metrics[1] else metrics[0]
        self.save.checkpointer.wait()
        kept = self.save.checkpointer.paths()
        raise TrainingError(
            f"step {step + 1}: loss {loss:g}, gradient norm {metrics[2]:g}: not finite, so the run stops"
            f"{self.describe_batch(step)}. The last good checkpoint is {kept[-1] if kept else 'none yet'}."
            f" Lower optimizer.learning_rate, set optimizer.clip_norm, or look at those rows"
        )


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C into a flag; the second interrupts as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    caught = []
    previous = signal.getsignal(signal.SIGINT)

    def handler(number: int, frame: Any) -> None:
        caught.append(number)
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: bool(caught)
    finally:
        signal.signal(signal.SIGINT, previous)
