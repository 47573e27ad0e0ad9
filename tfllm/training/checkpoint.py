"""Checkpoints that are whole or not there: written aside, verified, rotated."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfllm.training.errors import CheckpointError

_MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint held besides variables.

    Args:
        step: Updates done when it was written.
        state: The trainer's own numbers.
        path: Its folder.
    """

    step: int
    state: dict[str, Any]
    path: Path


class Checkpointer:
    """Keeps the newest checkpoints of a run in `<folder>/step_00000100/`.

    A checkpoint is a TensorFlow checkpoint of the variables by path, and a manifest with the size and
    SHA-256 of each file. The folder gets its name by one rename after everything is on disk, so a
    killed process leaves a whole checkpoint or none.

    Args:
        folder: The `checkpoints/` folder of a run.
        variables: Everything to save, by unique name, e.g. `model/decoder/final_norm/scale`.
        keep: How many of the newest to keep.
        notify: Called with one line when something is out of order.
    """

    def __init__(
        self,
        folder: str | Path,
        variables: Mapping[str, Any],
        *,
        keep: int = 3,
        notify: Callable[[str], None] = print,
    ):
        self.folder = Path(folder)
        self.keep = keep
        self.notify = notify
        self._variables = {name: getattr(v, "value", v) for name, v in variables.items()}
        self._checkpoint = _checkpoint(self._variables)

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Writes a checkpoint and removes what is too old.

        Args:
            step: Updates done.
            state: JSON-ready numbers to come back with it.

        Returns:
            Its folder.

        Raises:
            CheckpointError: when it cannot be written; older checkpoints are untouched.
        """
        final, part = self.folder / f"step_{step:08d}", self.folder / f".part_{step:08d}"
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            self._checkpoint.write(str(part / "variables"))
            manifest = {"step": step, "state": dict(state), "variables": self._shapes(), "files": _sums(part)}
            _write_synced(part / _MANIFEST, json.dumps(manifest, indent=1))
            if final.exists():
                shutil.rmtree(final)
            os.replace(part, final)
        except (OSError, tf.errors.OpError) as error:
            shutil.rmtree(part, ignore_errors=True)
            newest = self.paths()[-1] if self.paths() else "none"
            raise CheckpointError(
                f"checkpoint of step {step} could not be written to {self.folder}: {_reason(error)}; the last"
                f" whole checkpoint is {newest}. Free space or make the folder writable, then run the same"
                f" command again"
            ) from error
        # What lies after this step is damaged, for the run went on from before it; it must not count as new.
        whole = [path for path in self.paths() if path.name <= final.name]
        for old in {*self.paths()} - {*whole[-self.keep :]}:
            shutil.rmtree(old, ignore_errors=True)
        return final

    def restore(self) -> Restored | None:
        """Reads the newest whole checkpoint into the variables.

        A damaged one is passed over, with a notice, for the one before.

        Returns:
            What it held, or None where there is no checkpoint at all.

        Raises:
            CheckpointError: when every checkpoint is damaged, or belongs to another model.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                manifest = verified_manifest(path)
            except CheckpointError as error:
                self.notify(f"{error}; falling back to the checkpoint before it")
                continue
            self._check_variables(path, manifest["variables"])
            self._checkpoint.read(str(path / "variables")).assert_consumed()
            return Restored(manifest["step"], manifest["state"], path)
        if paths:
            raise CheckpointError(
                f"every checkpoint in {self.folder} is damaged; remove the folder to train from the start"
            )
        return None

    def paths(self) -> list[Path]:
        """Folders of checkpoints, oldest first."""
        return checkpoint_paths(self.folder)

    def _shapes(self) -> dict[str, list[int]]:
        return {name: list(v.shape) for name, v in self._variables.items()}

    def _check_variables(self, path: Path, saved: dict[str, list[int]]) -> None:
        wanted = self._shapes()
        differ = [n for n in sorted({*wanted, *saved}) if wanted.get(n) != saved.get(n)]
        if differ:
            name = differ[0]
            raise CheckpointError(
                f"{path} belongs to another model: {name} has shape {saved.get(name, 'none')} there and"
                f" {wanted.get(name, 'none')} here ({len(differ)} such variables); use the config the run was"
                f" made with, or another run folder"
            )


def restore_model(folder: str | Path, model: Any, *, notify: Callable[[str], None] = print) -> Restored:
    """Reads the model's variables alone from a run's newest whole checkpoint.

    Raises:
        CheckpointError: when there is none, or it belongs to another model.
    """
    for path in reversed(checkpoint_paths(folder)):
        try:
            manifest = verified_manifest(path)
        except CheckpointError as error:
            notify(f"{error}; falling back to the checkpoint before it")
            continue
        variables = model_variables(model)
        for name, variable in variables.items():
            saved = manifest["variables"].get(name)
            if saved != list(variable.shape):
                raise CheckpointError(
                    f"{path} belongs to another model: {name} has shape {saved or 'none'} there and"
                    f" {list(variable.shape)} here; use the config the run was made with"
                )
        _checkpoint({name: v.value for name, v in variables.items()}).read(
            str(path / "variables")
        ).expect_partial()
        return Restored(manifest["step"], manifest["state"], path)
    raise CheckpointError(f"no whole checkpoint in {folder}; train first, or give another run folder")


def model_variables(model: Any) -> dict[str, Any]:
    """The model's variables by name in a checkpoint, `model/<path>`."""
    return {f"model/{v.path}": v for v in model.variables}


def checkpoint_paths(folder: str | Path) -> list[Path]:
    """Folders of checkpoints under `folder`, oldest first."""
    return sorted(path for path in Path(folder).glob("step_*") if path.is_dir())


def verified_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, its files checked against it.

    Raises:
        CheckpointError: naming the file that is missing or damaged.
    """
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        expected = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path / _MANIFEST} is missing or damaged") from None
    for name, entry in expected.items():
        try:
            whole = _sum(path / name) == entry
        except OSError:
            whole = False
        if not whole:
            raise CheckpointError(f"{path / name} is missing or damaged")
    return manifest


def _sums(folder: Path) -> dict[str, Any]:
    return {path.name: _sum(path) for path in sorted(folder.iterdir())}


def _sum(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return {"bytes": file.tell(), "sha256": digest.hexdigest()}


def _write_synced(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # TensorFlow's message: "{{node}} file; reason [Op:name]".
    return re.sub(r"\s*\[Op:.*", "", str(error).splitlines()[0]).rpartition("; ")[2]


def _checkpoint(variables: Mapping[str, Any]) -> tf.train.Checkpoint:
    # An attribute's name holds no slash.
    return tf.train.Checkpoint(**{name.replace("/", "."): v for name, v in variables.items()})
