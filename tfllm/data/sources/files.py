"""Finding, reading and hashing the files that a source is made of."""

from __future__ import annotations

import glob
import gzip
import hashlib
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from tfllm.data.errors import DataError


def matching_files(path: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the files that one or several globs match, each once, sorted.

    Args:
        path: A path or glob, or a list of them; `**` matches any depth and `~` is the home folder.

    Raises:
        DataError: A glob matches no file.
    """
    patterns = [path] if isinstance(path, (str, Path)) else list(path)
    if not patterns:
        raise DataError("path=[] names no file; give at least one path or glob")
    found: set[Path] = set()
    for pattern in patterns:
        expanded = os.path.expanduser(str(pattern))
        files = {Path(name) for name in glob.glob(expanded, recursive=True) if os.path.isfile(name)}
        if not files:
            raise DataError(_nothing_matches(str(pattern), expanded))
        found |= files
    return sorted(found)


def _nothing_matches(pattern: str, expanded: str) -> str:
    message = f"path={pattern!r} matches no file (working directory: {os.getcwd()})"
    if os.path.isdir(expanded):
        return f"{message}; it is a folder, so name its files, e.g. {os.path.join(pattern, '**', '*.txt')!r}"
    return f"{message}; check the spelling, or give an absolute path"


def read_bytes(file: Path) -> bytes:
    """Return a file's bytes, decompressed when its name ends in `.gz`.

    Raises:
        DataError: The file cannot be read, or is not a complete gzip file.
    """
    try:
        return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(file, error) from error


def unreadable(file: Path, error: Exception) -> DataError:
    """Return the `DataError` for a file that cannot be read or decompressed."""
    mend = "copy or compress it again" if file.suffix == ".gz" else "check that it exists and may be read"
    return DataError(f"{file}: cannot be read ({error}); {mend}")


def content_digest(files: Iterable[Path]) -> str:
    """Return the sha256 hex digest of the files' contents, in order.

    Contents, not modification times: a file rewritten within the clock's resolution, or restored by a tool
    that keeps times, would otherwise pass for the old one. Names stay out, so moving a corpus keeps its rows.
    """
    total = hashlib.sha256()
    for file in files:
        digest = hashlib.sha256()
        try:
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise unreadable(file, error) from error
        total.update(digest.digest())
    return total.hexdigest()
