"""A folder that appears when all of it is written."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tfllm.convert.errors import ConvertError


def check_is_new(folder: Path) -> None:
    """Refuses a folder that holds something.

    Raises:
        ConvertError: when it does.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConvertError(f"{folder} is not empty; give a folder that does not exist yet")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yields a folder to write into, which takes the name when all is written, and is gone when something fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.part", dir=folder.parent))
    try:
        yield part
        part.chmod(0o755)  # mkdtemp's own would keep everybody else out
        part.replace(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
