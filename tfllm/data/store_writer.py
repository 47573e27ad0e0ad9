"""Writing a store piece by piece, so that it can be gone on with after the process was killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from tfllm.data.errors import DataError
from tfllm.data.piece import PieceCounts
from tfllm.data.store import PIECES_FILE, ROWS_FILE, RowStore

logger = logging.getLogger(__name__)


class StoreWriter:
    """Appends pieces to `rows.bin` and their counts to `pieces.jsonl`, as a context manager.

    A piece counts as written once its line stands in `pieces.jsonl`, which happens after its rows are on the
    disk. Opened on a folder where an earlier writer was interrupted, it cuts off what came after the last
    such piece.

    Args:
        folder: The folder, empty or as an earlier writer left it.
        row_bytes: Bytes of a row.

    Attributes:
        pieces: The counts of all pieces written, earlier ones included.
    """

    def __init__(self, folder: Path, row_bytes: int):
        self.folder, self.row_bytes = folder, row_bytes
        self.pieces = list(_whole_pieces(folder, row_bytes))

    def __enter__(self) -> StoreWriter:
        self._rows = (self.folder / ROWS_FILE).open("ab")
        self._rows.truncate(self.written)
        lines = "".join(piece.as_line() for piece in self.pieces)
        self._journal = (self.folder / PIECES_FILE).open("ab")
        self._journal.truncate(len(lines.encode()))
        return self

    def __exit__(self, *exception: object) -> None:
        for file in (self._rows, self._journal):
            with contextlib.suppress(OSError):  # a full disk was reported when it was written to
                file.close()

    @property
    def written(self) -> int:
        """Bytes of rows on the disk."""
        return sum(piece.rows for piece in self.pieces) * self.row_bytes

    def append(self, data: bytes, counts: PieceCounts) -> None:
        """Write a piece.

        Raises:
            OSError: The disk refuses.
        """
        for file, content in ((self._rows, data), (self._journal, counts.as_line().encode())):
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self.pieces.append(counts)


def _whole_pieces(folder: Path, row_bytes: int) -> Iterator[PieceCounts]:
    """Yield the pieces of an earlier writer up to the first that is not whole, in its line or its rows."""
    try:
        lines = (folder / PIECES_FILE).read_text(encoding="utf-8").splitlines(keepends=True)
        size = (folder / ROWS_FILE).stat().st_size
    except FileNotFoundError:
        return
    for line in lines:
        try:
            piece = PieceCounts.from_line(line if line.endswith("\n") else "")
        except ValueError:
            return
        size -= piece.rows * row_bytes
        if size < 0:
            return
        yield piece


@contextlib.contextmanager
def part_folder(folder: Path) -> Iterator[Path]:
    """Give the folder in which `folder` is being made, and hold it against other processes.

    It lies beside `folder`, so that it can be renamed, and is kept when the process is killed. Where another
    process holds it, wait. A file system without locks gives a new folder each time, which cannot be gone on
    with.

    Raises:
        OSError: It cannot be made.
    """
    part = folder.with_name(f".{folder.name}.part")
    while True:
        part.mkdir(parents=True, exist_ok=True)  # unlike tempfile's folders, readable by whom the umask lets
        with contextlib.suppress(FileNotFoundError), _opened(part) as handle:
            if not _lock(handle, part):
                with contextlib.suppress(OSError):  # not ours, if there is something in it
                    part.rmdir()
                part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
                part.mkdir()
            elif os.fstat(handle).st_ino != part.stat().st_ino:
                continue  # the one we waited for has renamed or removed it
            yield part
            return


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)  # and so gives the lock back, as the end of the process does


def _lock(handle: int, part: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.warning("%s: another process is preparing these rows; waiting for it", part)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def publish(part: Path, folder: Path) -> None:
    """Rename into place; sound rows that another process put there meanwhile stay, damaged ones go.

    Raises:
        OSError: The file system refuses.
    """
    try:
        part.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        try:
            RowStore.open(folder)
        except DataError:
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
            part.rename(folder)
