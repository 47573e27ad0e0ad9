"""TensorBoard's event files, which a run can do without."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow as tf


class TensorBoard:
    """Stands for a `tf.summary` writer; what it cannot write costs one notice, and never the run.

    After the first failure nothing more is written: a file that misses lines in between is worse than one that ends.
    `metrics.jsonl` has the same numbers.

    Args:
        folder: The `tensorboard/` folder.
        notify: Called with one line when the files cannot be written.
    """

    def __init__(self, folder: str | Path, *, notify: Callable[[str], None] = print):
        self.folder = Path(folder)
        self.notify = notify
        self._writer = tf.summary.create_noop_writer()
        with self._guarded():
            self._writer = tf.summary.create_file_writer(str(folder))

    @contextlib.contextmanager
    def as_default(self, step: int | None = None) -> Iterator[None]:
        """As `tf.summary.SummaryWriter.as_default`."""
        entered = False
        with self._guarded(), self._writer.as_default(step=step):
            entered = True
            yield
        if not entered:
            yield

    def flush(self) -> None:
        """Puts what was written into the file."""
        with self._guarded():
            self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        with self._guarded():
            self._writer.close()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
            self._writer = tf.summary.create_noop_writer()
            self.notify(
                f"{self.folder} cannot be written any more ({_reason(error)}); the run goes on without TensorBoard,"
                " metrics.jsonl has its numbers"
            )


def _reason(error: Exception) -> str:
    text = (
        error.message
        if isinstance(error, tf.errors.OpError)
        else getattr(error, "strerror", "") or str(error)
    )
    return (
        text.partition("}} ")[2].partition(" [Op:")[0] or text.splitlines()[0]
        if text
        else type(error).__name__
    )
