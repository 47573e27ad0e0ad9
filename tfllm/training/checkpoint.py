"""Checkpoints: copied in a moment, written behind the training's back, verified when read."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfllm.training.checkpoint_folder import (
    checkpoint_name,
    checkpoint_paths,
    checkpoint_step,
    looks_whole,
    publish,
    read_best,
    read_manifest,
    remove,
    remove_rubbish,
    start_part,
    superseded,
    verified_manifest,
    write_best,
)
from tfllm.training.errors import CheckpointError
from tfllm.training.tensor_bundle import HostCopy, backing_variable, read_tensor

BUNDLE = "variables"
_MEND = "free space or make the folder writable"


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint held besides variables.

    Args:
        step: Updates done when it was written.
        state: The trainer's own numbers.
        about: What was handed to the `Checkpointer` that wrote it: config, versions, seeds.
        path: Its folder.
        averaged: Whether a model got the exponential moving average instead of the last weights.
    """

    step: int
    state: dict[str, Any]
    about: dict[str, Any]
    path: Path
    averaged: bool = False


class Checkpointer:
    """Keeps the newest checkpoints of a run in `<folder>/step_00000100/`.

    A checkpoint is a tensor bundle `variables.*`, keyed by the variables' names, and a manifest with step,
    state, shapes and types, and the size and SHA-256 of each file. `save` copies the variables to host
    memory, of which that takes as much as they do, and returns; one thread writes. Whenever the process
    is killed, every checkpoint is whole or not there, and the last whole one stays.

    Args:
        folder: The `checkpoints/` folder of a run.
        variables: Everything to save, by unique name, e.g. `model/decoder/final_norm/scale`.
        keep: How many of the newest to keep.
        best: A validation metric and its mode, e.g. `("loss", "min")`: the checkpoint in which it is best
            is kept too, and named by `best.json`.
        on_error: When a checkpoint cannot be written: `stop` raises at the next `save` or `wait`;
            `continue` says so in one line, and training goes on.
        about: JSON-ready, written into each manifest.
        writes: False in a worker that is not the chief: `save` does nothing.
        notify: Called with one line when something is out of order, on the thread that calls `save`.
    """

    def __init__(
        self,
        folder: str | Path,
        variables: Mapping[str, Any],
        *,
        keep: int = 3,
        best: tuple[str, str] | None = None,
        on_error: str = "stop",
        about: Mapping[str, Any] | None = None,
        writes: bool = True,
        notify: Callable[[str], None] = print,
    ):
        if on_error not in ("stop", "continue"):
            raise ValueError(f"on_error={on_error!r} must be 'stop' or 'continue'")
        if best is not None and best[1] not in ("min", "max"):
            raise ValueError(f"best={best!r} must be a metric and its mode, 'min' or 'max'")
        self.folder = Path(folder)
        self.keep = keep
        self.best = best
        self.on_error = on_error
        self.about = dict(about or {})
        self.writes = writes
        self.notify = notify
        self.blocked_seconds = 0.0
        self._variables = {name: backing_variable(v) for name, v in variables.items()}
        self._copy = HostCopy(self._variables)
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._lost: CheckpointError | None = None  # what became of the last save, where it was let go
        self._notices: list[str] = []
        self._damaged: set[Path] = set()

    def save(
        self, step: int, state: Mapping[str, Any], *, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Copies the variables and has them written; waits only while the save before it is still written.

        `blocked_seconds` counts the seconds that `save` and `wait` have taken so far.

        Args:
            step: Updates done.
            state: JSON-ready numbers to come back with it.
            metrics: The newest validation metrics.

        Raises:
            CheckpointError: when the save before it failed, with `on_error="stop"`; older checkpoints are
                untouched.
        """
        if not self.writes:
            return
        self.wait()
        start = time.perf_counter()
        head = {"step": step, "state": state, "metrics": metrics or {}, "about": self.about}
        manifest = {**json.loads(json.dumps(head)), "variables": self._specs()}
        self._copy.take()
        self._thread = threading.Thread(target=self._run, args=(step, manifest), name=f"checkpoint {step}")
        self._thread.start()
        self.blocked_seconds += time.perf_counter() - start

    def is_better(self, metrics: Mapping[str, float]) -> bool:
        """Whether these validation metrics are better than those of the best checkpoint."""
        if self.best is None:
            return False
        metric, mode = self.best
        value, recorded = metrics.get(metric), read_best(self.folder)
        if value is None or not math.isfinite(value):
            return False
        if recorded is None or recorded["metric"] != metric:
            return True
        return value < recorded["value"] if mode == "min" else value > recorded["value"]

    def wait(self, *, last: bool = False) -> None:
        """Returns when the last save is on disk.

        Args:
            last: No other save follows, so that one that failed is not let go, whatever `on_error` says.

        Raises:
            CheckpointError: when it failed, with `on_error="stop"` or `last`.
        """
        if self._thread is not None:
            self._join(last)
        if last and self._lost is not None:
            raise CheckpointError(
                f"{self._lost}. The last weights lie on no disk: {_MEND}, then run the same command again"
            )

    def settle(self) -> None:
        """Returns when nothing is being written any more, however that ended."""
        if self._thread is not None:
            self._thread.join()

    def _join(self, last: bool) -> None:
        assert self._thread is not None
        start = time.perf_counter()
        self._thread.join()
        self._thread = None
        self.blocked_seconds += time.perf_counter() - start
        notices, self._notices = self._notices, []
        for notice in notices:
            self.notify(notice)
        failure, self._failure = self._failure, None
        if not isinstance(failure, CheckpointError):
            self._lost = None
            if failure is not None:
                raise failure
        elif self.on_error == "stop":
            raise CheckpointError(
                f"{failure}. {_MEND.capitalize()}, then run the same command again"
            ) from failure
        else:
            self._lost = failure
            if not last:
                self.notify(f"{failure}. Training goes on without it; {_MEND}")

    def restore(self, path: str | Path | None = None) -> Restored | None:
        """Reads a checkpoint into the variables.

        Args:
            path: The folder of the checkpoint; None takes the newest whole one, and passes over damaged
                ones with a notice.

        Returns:
            What it held, or None where there is no checkpoint at all.

        Raises:
            CheckpointError: when `path`, or every checkpoint, is damaged, or belongs to another model.
        """
        self.wait()
        if self.writes:
            remove_rubbish(self.folder)
            self._thread = threading.Thread(target=self._copy.prepare, name="checkpoint memory")
            self._thread.start()
        if path is not None:
            return self._read(Path(path), verified_manifest(Path(path)))
        newest = newest_whole(self.paths(), self.notify, self._damaged)
        if newest is not None:
            restored = self._read(*newest)
            if self.writes and self.best is not None:
                self._track_best(restored.step)
            return restored
        if self.paths():
            raise CheckpointError(
                f"every checkpoint in {self.folder} is damaged; put a whole one there, of a backup, or train"
                " from the start into another --run-dir. Nothing was changed"
            )
        return None

    def paths(self) -> list[Path]:
        """Folders of checkpoints on disk, oldest first; not one that is still being written."""
        return checkpoint_paths(self.folder)

    def _run(self, step: int, manifest: dict[str, Any]) -> None:
        try:
            self._write(step, manifest)
        except (OSError, MemoryError, tf.errors.OpError) as error:
            shutil.rmtree(self.folder / f".part_{checkpoint_name(step)}", ignore_errors=True)
            whole = [path for path in self.paths() if looks_whole(path) and path not in self._damaged]
            self._failure = CheckpointError(
                f"checkpoint of step {step} could not be written to {self.folder}: {_reason(error)}; the last"
                f" whole checkpoint is {whole[-1] if whole else 'none'}"
            )
            self._failure.__cause__ = error
        except Exception as error:
            self._failure = error

    def _write(self, step: int, manifest: dict[str, Any]) -> None:
        part = start_part(self.folder, step)
        self._copy.write(part / BUNDLE)
        self._damaged.discard(publish(part, manifest))
        self._rotate(step, keep_best=self._track_best(step))

    def _track_best(self, step: int) -> Path | None:
        # From the manifests, not from best.json: that may be one save behind where a process was killed.
        if self.best is None:
            write_best(self.folder, None)
            return None
        metric, mode = self.best
        found = []
        for path in self._whole(step):
            value = read_manifest(path)["metrics"].get(metric)
            if isinstance(value, (int, float)) and math.isfinite(value):
                found.append((value if mode == "min" else -value, checkpoint_step(path), value, path))
        if not found:
            write_best(self.folder, None)
            return None
        _, at, value, path = min(found)
        write_best(self.folder, {"step": at, "metric": metric, "mode": mode, "value": value})
        return path

    def _rotate(self, step: int, *, keep_best: Path | None) -> None:
        kept = {*self._whole(step)[-self.keep :], keep_best}
        for path in self.paths():
            if path in kept:
                continue
            if checkpoint_step(path) > step and looks_whole(path) and path not in self._damaged:
                self._notices.append(f"removed {path}: this run went on from before it, to step {step}")
            remove(path)

    def _whole(self, step: int) -> list[Path]:
        # Up to this step: what lies after it is damaged, or of a course that was given up.
        paths = [path for path in self.paths() if path not in self._damaged and not superseded(path)]
        return [path for path in paths if checkpoint_step(path) <= step and looks_whole(path)]

    def _read(self, path: Path, manifest: dict[str, Any]) -> Restored:
        wanted, saved = self._specs(), manifest["variables"]
        differ = [n for n in sorted({*wanted, *saved}) if wanted.get(n) != saved.get(n)]
        if differ:
            raise another_model(path, differ, saved, wanted)
        for name, variable in self._variables.items():
            variable.assign(read_tensor(path / BUNDLE, name, saved[name]["dtype"]))
        return Restored(manifest["step"], manifest["state"], manifest["about"], path)

    def _specs(self) -> dict[str, dict[str, Any]]:
        return {name: spec_of(v) for name, v in self._variables.items()}


def newest_whole(
    paths: list[Path], notify: Callable[[str], None], damaged: set[Path]
) -> tuple[Path, dict[str, Any]] | None:
    """The last of some checkpoints that is whole, and its manifest; those that are not go into `damaged`."""
    for path in reversed(paths):
        try:
            return path, verified_manifest(path)
        except CheckpointError as error:
            damaged.add(path)
            notify(f"{error}; falling back to the checkpoint before it")
    return None


def spec_of(variable: Any) -> dict[str, Any]:
    """What a manifest says of a variable."""
    return {"shape": list(variable.shape), "dtype": variable.dtype.name}


def another_model(
    path: Path, differ: list[str], saved: Mapping[str, Any], wanted: Mapping[str, Any]
) -> CheckpointError:
    """The error about variables that are not those of a checkpoint."""

    def words(spec: dict[str, Any] | None) -> str:
        return f"{spec['dtype']} {spec['shape']}" if spec else "none"

    name = differ[0]
    return CheckpointError(
        f"{path} belongs to another model: {name} is {words(saved.get(name))} there and"
        f" {words(wanted.get(name))} here ({len(differ)} such variables); use the config the run was made"
        f" with, or another run folder"
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # TensorFlow's message: "{{node}} file; reason [Op:name]".
    return re.sub(r"\s*\[Op:.*", "", (str(error) or repr(error)).splitlines()[0]).rpartition("; ")[2]
