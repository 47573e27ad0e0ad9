"""One process at a time trains in a run folder."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tfllm.training.errors import TrainingError

_FILE = ".lock"


class RunLockedError(TrainingError):
    """Another process trains in the run folder."""


@contextlib.contextmanager
def locked_run(folder: Path, *, notify: Callable[[str], None] = print) -> Iterator[None]:
    """Holds a run folder, which is made where it does not exist, against other processes.

    The lock is the system's, on the open file `.lock`: it ends with the process, however that ends, and holds
    between machines where the file system has locks that do. The file, which only says who holds it, is removed at
    the end, as are folders that were made here and stayed empty.

    Args:
        folder: The run folder.
        notify: Called with one line where the file system has no locks.

    Raises:
        RunLockedError: when another process holds it.
        OSError: when the folder cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _FILE
    handle = _hold(path, notify)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # before the lock is given back: who opened it meanwhile looks again
        os.close(handle)
        for each in made:
            with contextlib.suppress(OSError):  # there is something in it
                each.rmdir()


def _hold(path: Path, notify: Callable[[str], None]) -> int:
    """Opens and locks the file; Python's files are closed in the programs that a process starts."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if _lock(handle, path, notify) and not _is_still(handle, path):
                os.close(handle)
                continue
            _sign(handle)
        except BaseException:
            os.close(handle)
            raise
        return handle


def _lock(handle: int, path: Path, notify: Callable[[str], None]) -> bool:
    try:
        # Not lockf: its locks do not hold within a process, and end when any of its files is closed.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunLockedError(
            f"{path.parent} is being trained by {_holder(handle)}; wait until that has ended, or choose another"
            " --run-dir or name"
        ) from None
    except OSError as error:
        notify(
            f"{path.parent}: the file system has no locks ({error.strerror}); see to it that no other process trains"
            " there"
        )
        return False
    return True


def _is_still(handle: int, path: Path) -> bool:
    """Whether the file is the one of that name, and not one that its holder has removed."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _sign(handle: int) -> None:
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": now}
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(holder).encode(), 0)


def _holder(handle: int) -> str:
    try:
        holder: dict[str, Any] = json.loads(os.pread(handle, 4096, 0))
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
