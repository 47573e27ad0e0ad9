"""A file that a command writes: whole, or not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tfllm.config.home import expand_home


@contextlib.contextmanager
def whole_file(path: str | Path, name: str) -> Iterator[IO[str]]:
    """Makes a stream whose text becomes the file once all of it is written; folders above it are made.

    Args:
        path: The file.
        name: What the path is called where it was written, for a message.
    """
    path = expand_home(path, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part_{path.name}_{os.getpid()}")
    try:
        with part.open("w", encoding="utf-8") as stream:
            yield stream
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
