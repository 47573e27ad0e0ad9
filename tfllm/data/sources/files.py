"""Finding, opening and hashing the files that a source is made of."""

from __future__ import annotations

import codecs
import contextlib
import glob
import gzip
import hashlib
import io
import logging
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

from tfllm.data.errors import DataError
from tfllm.data.sources.file_kind import GZIP, HEAD_BYTES, encoding_mark, kind_of
from tfllm.data.sources.source import Source

logger = logging.getLogger(__name__)


class NotText(DataError):
    """A file holds something else than text; `on_error` may pass over it."""


def matching_files(path: str | Path | Sequence[str | Path], *, key: str = "path") -> list[Path]:
    """Return the files that one or several paths or globs name, each file once, in the order of their paths.

    What exists under a path is that path, whatever characters it has; so is the leading part of a glob that
    exists. A file that is reached by several spellings, links or globs counts once, under the first of its names.

    Args:
        path: A path or glob, or a list of them; `**` matches any depth and `~` is the home folder.
        key: What messages call the setting.

    Raises:
        DataError: A path or glob names no file.
    """
    patterns = [path] if isinstance(path, (str, Path)) else list(path)
    if not patterns:
        raise DataError(f"{key}=[] names no file; give at least one path or glob")
    found: set[Path] = set()
    for pattern in patterns:
        files = matches(str(pattern))
        if not files:
            raise DataError(_nothing_matches(str(pattern), key))
        found.update(files)
    # By their whole paths, so that relative and absolute spellings give one order.
    ordered = sorted(found, key=lambda file: Path(os.path.abspath(file)))
    unique: dict[tuple[int, int], Path] = {}
    for file in ordered:
        unique.setdefault(_identity(file), file)
    return list(unique.values())


def matches(pattern: str, folder: str | Path | None = None) -> list[Path]:
    """Return the files that a path or glob names, as they are spelled there.

    Args:
        pattern: The path or glob.
        folder: Where relative ones begin; None or empty is the working directory.
    """
    if "\0" in pattern:
        return []
    literal = os.path.join(folder or "", pattern)
    if not os.path.lexists(literal):
        literal = os.path.join(folder or "", os.path.expanduser(pattern))
    if os.path.lexists(literal):
        return [Path(literal)] if os.path.isfile(literal) else []
    return [Path(name) for name in _names_of(_glob_of(literal)) if os.path.isfile(name)]


def _names_of(pattern: str) -> Iterator[str]:
    """Yield what a glob names; below `**` every folder is entered once, whatever links lead back to it."""
    parts = pattern.split(os.sep)
    if "**" not in parts:
        yield from glob.iglob(pattern)
        return
    at = parts.index("**")
    head, tail = os.sep.join(parts[:at]), os.path.join("", *parts[at + 1 :]) or "*"
    for top in glob.iglob(head or os.sep) if at else [""]:
        for folder in _folders_below(top):
            yield from _names_of(os.path.join(glob.escape(folder), tail))


def _folders_below(top: str) -> Iterator[str]:
    """Yield a folder and those in it, by their names; not hidden ones, as `glob` has it."""
    seen: set[tuple[int, int]] = set()
    for folder, names, _ in os.walk(top or os.curdir, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            names.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        names[:] = sorted(name for name in names if not name.startswith("."))
        yield folder if top else os.path.relpath(folder).removeprefix(os.curdir)


def _glob_of(pattern: str) -> str:
    """The pattern, with the folders at its beginning that exist taken letter by letter."""
    head, tail = pattern, ""
    while head and not os.path.lexists(head):
        parent, name = os.path.split(head)
        if parent == head:
            break
        head, tail = parent, os.path.join(name, tail) if tail else name
    return os.path.join(glob.escape(head), tail) if head else tail


def _nothing_matches(pattern: str, key: str) -> str:
    try:
        here = os.getcwd()
    except FileNotFoundError:
        here = "removed"
    message = f"{key}={pattern!r} matches no file (working directory: {here})"
    place = pattern if os.path.lexists(pattern) else os.path.expanduser(pattern)
    if os.path.isdir(place):
        return f"{message}; it is a folder, so name its files, e.g. {os.path.join(pattern, '**', '*.txt')!r}"
    if os.path.islink(place) and not os.path.exists(place):
        return f"{message}; it is a link to {os.readlink(place)!r}, which is not there"
    if os.path.exists(place):
        return f"{message}; it is a pipe or device, and text is read more than once: save it in a file"
    return f"{message}; check the spelling, or give an absolute path"


def check_apart(train: Source, held_out: Source) -> None:
    """See that held-out text is not that which is trained on, whatever it is called.

    Args:
        train: A source, or a mixture of them.
        held_out: A source.

    Raises:
        DataError: All files of the one are also files of the other. Where it is some, a warning says so.
    """
    training = {_identity(file) for file in train.files}
    both = [file for file in held_out.files if _identity(file) in training]
    if both and len(both) == len(held_out.files):
        raise DataError(
            f"{held_out.section}: {both[0]} is also text of data.train, so its loss would say nothing; leave "
            f"{held_out.section} out to hold documents out, or give other text"
        )
    if both:
        logger.warning(
            "%s: %s is also text of data.train, so the loss says less than it seems",
            held_out.section,
            both[0],
        )


def _identity(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def opened(file: Path) -> Iterator[io.BufferedReader]:
    """Open a file for reading; gzip is decompressed on the way, whatever the file is called.

    Raises:
        DataError: It cannot be read.
        NotText: It is a gzip file that is cut short or damaged; also from a read.
    """
    try:
        with file.open("rb") as stream:
            if head_of(file).startswith(GZIP):
                with gzip.open(stream) as text:
                    yield cast(io.BufferedReader, text)  # which it is in all but name
            else:
                yield stream
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(file, error) from error


def head_of(file: Path) -> bytes:
    """Return the first bytes of a file.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return stream.read(HEAD_BYTES)
    except OSError as error:
        raise unreadable(file, error) from error


def is_gzip(file: Path) -> bool:
    """Return whether a file is gzip-compressed."""
    return head_of(file).startswith(GZIP)


def check_is_text(file: Path, head: bytes, *, encoding: str = "utf-8", encoding_key: str = "") -> None:
    """See that a file begins as text in an encoding may begin.

    Args:
        file: The file, for messages.
        head: Its first bytes, decompressed.
        encoding: What the text shall be in.
        encoding_key: The key of the config that says so, if there is one.

    Raises:
        NotText: It is something else; the message says what, and what to do.
    """
    kind = kind_of(head)
    if kind is not None:
        raise NotText(f"{file}: is no text but {kind.name}; {kind.mend}")
    if head.startswith(GZIP):
        raise NotText(f"{file}: is compressed with gzip twice; decompress it once (gunzip)")
    mark = encoding_mark(head)
    if mark is not None and not codecs.lookup(encoding).name.startswith(mark):
        mend = f"write {encoding_key}: {mark}" if encoding_key else f"save it as {encoding}"
        raise NotText(f"{file}: is text in {mark}, as its first bytes say, and not in {encoding}; {mend}")


def unreadable(file: Path, error: Exception) -> DataError:
    """Return the `DataError` for a file that cannot be read, or the `NotText` for one that cannot be decompressed."""
    if isinstance(error, EOFError):
        return NotText(f"{file}: cannot be read: its gzip stream is cut short; copy or compress it again")
    if isinstance(error, gzip.BadGzipFile) and "Not a gzipped" in str(error):
        words = "there are other bytes behind its gzip stream"
        return NotText(f"{file}: cannot be read: {words}; copy or compress it again")
    if isinstance(error, (gzip.BadGzipFile, zlib.error)):
        words = f"its gzip stream is damaged ({error})"
        return NotText(f"{file}: cannot be read: {words}; copy or compress it again")
    reason = getattr(error, "strerror", None) or error
    return DataError(f"{file}: cannot be read ({reason}); check that it exists and may be read")


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
