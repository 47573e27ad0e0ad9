"""Checkpoints on disk: a folder each, whole or not there, whenever the process is killed.

What a name says, in the order in which a save makes and unmakes them:

    .part_*            on its way in, or out; no checkpoint, and removed by the next save
    step_00000100      a checkpoint: it got this name by one rename after all of it was on disk
    .old_step_00000100 the one that a second save of the same step replaces; counts until that one is there
    best.json          which checkpoint has the best validation metric
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tfllm.training.errors import CheckpointError

MANIFEST = "manifest.json"
_BEST = "best.json"
_PART, _OLD = ".part_", ".old_"
_NAME = re.compile(rf"(?:{re.escape(_OLD)})?step_(\d+)")


def checkpoint_name(step: int) -> str:
    """The name of a step's folder."""
    return f"step_{step:08d}"


def checkpoint_step(path: Path) -> int:
    """The step of a checkpoint's folder."""
    match = _NAME.fullmatch(path.name)
    assert match, path
    return int(match[1])


def checkpoint_paths(folder: str | Path) -> list[Path]:
    """Folders of checkpoints under `folder`, oldest first."""
    found = [path for path in Path(folder).glob("*step_*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: (checkpoint_step(path), not path.name.startswith(_OLD)))


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, when it is unharmed and the files have the sizes it names.

    Raises:
        CheckpointError: naming the file that is missing or damaged.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        whole = manifest.pop("sha256") == _digest_of(manifest)
        files = {name: entry["bytes"] for name, entry in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise CheckpointError(f"{path / MANIFEST} is missing or damaged")
    for name, size in files.items():
        if not (path / name).is_file() or (path / name).stat().st_size != size:
            raise CheckpointError(f"{path / name} is missing or damaged")
    return manifest


def verified_manifest(path: Path) -> dict[str, Any]:
    """As `read_manifest`, with every byte of the files checked.

    Raises:
        CheckpointError: naming the file that is missing or damaged.
    """
    manifest = read_manifest(path)
    names = list(manifest["files"])
    with ThreadPoolExecutor() as pool:
        for name, entry in zip(names, pool.map(lambda n: _file_entry(path / n), names), strict=True):
            if entry != manifest["files"][name]:
                raise CheckpointError(f"{path / name} is missing or damaged")
    return manifest


def looks_whole(path: Path) -> bool:
    """Whether manifest and sizes are right: what a killed or truncated write would have spoilt."""
    try:
        read_manifest(path)
    except CheckpointError:
        return False
    return True


def start_part(folder: Path, step: int) -> Path:
    """Makes the folder in which a checkpoint of `step` is written aside."""
    _make_folder(folder)
    remove_rubbish(folder)
    for old in folder.glob(f"{_OLD}*"):
        final = old.with_name(old.name.removeprefix(_OLD))
        if not final.exists():
            os.replace(old, final)
    part = folder / f"{_PART}{checkpoint_name(step)}"
    part.mkdir()
    return part


def publish(part: Path, manifest: dict[str, Any]) -> Path:
    """Puts a written folder on disk for good, then gives it its name; returns its path.

    Args:
        part: From `start_part`, its files written.
        manifest: JSON-ready; `files` is added.
    """
    paths = sorted(part.iterdir())
    with ThreadPoolExecutor(2) as pool:
        files = {path.name: entry for path, entry in zip(paths, pool.map(_synced_entry, paths), strict=True)}
    manifest = {**manifest, "files": files}
    _write_synced(part / MANIFEST, json.dumps({"sha256": _digest_of(manifest), **manifest}, indent=1))
    _sync_folder(part)
    final = part.with_name(part.name.removeprefix(_PART))
    if final.exists():
        old = final.with_name(_OLD + final.name)
        if old.exists():
            remove(old)
        os.replace(final, old)
    os.replace(part, final)
    _sync_folder(final.parent)
    return final


def remove(path: Path) -> None:
    """Removes a checkpoint; killed midway it leaves rubbish, not half a checkpoint."""
    rubbish = path.with_name(f"{_PART}removed_{path.name}")
    shutil.rmtree(rubbish, ignore_errors=True)
    os.replace(path, rubbish)
    shutil.rmtree(rubbish, ignore_errors=True)


def remove_rubbish(folder: Path) -> None:
    """Removes what killed saves left half written or half removed."""
    for path in folder.glob(f"{_PART}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def superseded(path: Path) -> bool:
    """Whether it was being replaced by a checkpoint that is there now."""
    return path.name.startswith(_OLD) and path.with_name(path.name.removeprefix(_OLD)).exists()


def read_best(folder: str | Path) -> dict[str, Any] | None:
    """What `best.json` says, `step`, `metric`, `mode` and `value`; None without one."""
    try:
        best = json.loads((Path(folder) / _BEST).read_bytes())
        return best if isinstance(best["step"], int) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_best(folder: Path, best: dict[str, Any] | None) -> None:
    """Replaces `best.json` at once; None removes it."""
    if best == read_best(folder):
        return
    if best is None:
        (folder / _BEST).unlink(missing_ok=True)
        return
    part = folder / f"{_PART}{_BEST}"
    _write_synced(part, json.dumps(best))
    os.replace(part, folder / _BEST)
    _sync_folder(folder)


def _make_folder(folder: Path) -> None:
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _sync_folder(folder.parent)


def _digest_of(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _file_entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return {"bytes": file.tell(), "sha256": digest.hexdigest()}


def _synced_entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return _file_entry(path)


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network and FUSE file systems know no sync of a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
