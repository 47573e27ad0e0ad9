"""Tokenised rows on disk: fixed bytes a row, read at random, checked against what was written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.config.home import expand_home
from tfllm.data.errors import DataError
from tfllm.data.layout import RowLayout, Rows, next_token_layout
from tfllm.data.piece import PieceCounts
from tfllm.data.sources.source import settings_digest

FORMAT_VERSION = 2
ROWS_FILE, PIECES_FILE, META_FILE = "rows.bin", "pieces.jsonl", "meta.json"
_NOTICES = 3  # of a source that are shown
_SPOT_CHECKS = 4  # pieces that every opening reads: 50 MB at most, and all of a small store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowStore:
    """Rows of fixed byte length in one file: the features of `layout`, one beside the other.

    It is one file however large, because it is read through a memory map: only the rows that are asked for are
    ever in memory, and each further file would cost a map and a gather in every batch.

    Beside the rows lie `pieces.jsonl`, a line for each piece that was written at once, with its checksum, and
    `meta.json` with the attributes below.

    Attributes:
        path: The file, `rows.bin`.
        num_rows: Rows in the file.
        seq_len: Tokens in a row, or in each side of it.
        dtype: "uint16" where every value fits, else "int32".
        packing: Whether rows hold several documents or examples.
        pad_id: The id in padded places.
        num_documents: Documents with at least one token, or records with an example.
        num_tokens: Tokens of the examples; for next-token prediction targets with weight 1: the documents' tokens and
            an end each.
        num_bytes: UTF-8 bytes of the documents' text.
        num_skipped: Lines or files of the whole source that could not be read and were skipped.
        key: The digest of everything that the rows depend on.
        identity: The digest of `key` and of the checksums of all rows: equal identities, equal rows.
        source: The source, in words.
        notices: What was strange about the source, in words.
        num_cut: Examples of which some text is left out, for it is too long.
        num_dropped: Records with text of which there is no example.
        layout: What a row holds; by default `token_ids`, `targets` and `segment_ids`, each `seq_len` numbers.
    """

    path: Path
    num_rows: int
    seq_len: int
    dtype: str
    packing: bool
    pad_id: int
    num_documents: int
    num_tokens: int
    num_bytes: int
    num_skipped: int = 0
    key: str = ""
    identity: str = ""
    source: str = ""
    notices: tuple[str, ...] = ()
    num_cut: int = 0
    num_dropped: int = 0
    layout: RowLayout = None  # type: ignore[assignment]  # given below, where it is None

    def __post_init__(self) -> None:
        if self.layout is None:
            object.__setattr__(self, "layout", self._next_token_layout())

    def _next_token_layout(self) -> RowLayout:
        limit = 1 << (16 if self.dtype == "uint16" else 31)
        return next_token_layout(seq_len=self.seq_len, vocab_limit=limit, pad_id=self.pad_id)

    @property
    def summary(self) -> str:
        """The numbers, in words."""
        skipped = f", {self.num_skipped:,} unreadable in the source and skipped" if self.num_skipped else ""
        return (
            f"{self.num_documents:,} documents, {self.num_bytes:,} bytes, {self.num_tokens:,} tokens in"
            f" {self.num_rows:,} rows of {self.seq_len}{skipped}{self._too_long}{self.remarks}"
        )

    @property
    def _too_long(self) -> str:
        cut = f"; {self.num_cut:,} texts are cut, for they are too long" if self.num_cut else ""
        return cut + (f"; {self.num_dropped:,} documents are left out" if self.num_dropped else "")

    @property
    def remarks(self) -> str:
        """The first of the notices, each behind a semicolon."""
        more = len(self.notices) - _NOTICES
        shown = [*self.notices[:_NOTICES], *([f"{more} more such notices"] if more > 0 else [])]
        return "".join(f"; {notice}" for notice in shown)

    @property
    def content(self) -> str:
        """The digest of the rows as training sees them: equal for equal rows, whatever text they were made from."""
        numbers = [
            [piece.rows, piece.documents, piece.tokens, piece.bytes, piece.crc32] for piece in self.pieces
        ]
        shape = [self.seq_len, self.dtype, self.packing, self.pad_id, *self._other_layout()]
        return settings_digest(shape=shape, pieces=[piece for piece in numbers if piece[0]])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.layout.width * np.dtype(self.dtype).itemsize

    def read(self, indices: Sequence[int] | np.ndarray) -> Rows:
        """Return rows by index: a dict of int32 or float32 arrays, [N, seq_len] where tokens have a value each.

        Raises:
            IndexError: An index is not in [0, num_rows).
        """
        indices = np.asarray(indices, np.int64).reshape(-1)
        if indices.size and not 0 <= indices.min() <= indices.max() < self.num_rows:
            raise IndexError(
                f"row indices must be in [0, {self.num_rows}), got {indices.min()}..{indices.max()}"
            )
        return self.layout.unpacked(self._rows[indices])

    @cached_property
    def _rows(self) -> np.ndarray:
        return np.memmap(self.path, self.dtype, "r", shape=(self.num_rows, self.layout.width))

    def _other_layout(self) -> list[Any]:
        """The layout in JSON, where it is another than next-token prediction's, which needs no words."""
        names = [(feature.name, feature.fill) for feature in self.layout.features]
        usual = [(feature.name, feature.fill) for feature in self._next_token_layout().features]
        return [] if names == usual else [self.layout.as_mapping()]

    @cached_property
    def pieces(self) -> list[PieceCounts]:
        """What was written at once, in the order of the rows."""
        return read_pieces(self.path.with_name(PIECES_FILE))

    def verify(self, progress: Callable[[int], None] | None = None) -> None:
        """Read all rows and compare them with the checksums made when they were written.

        Args:
            progress: Called with the bytes of each piece that was found good.

        Raises:
            DataError: Rows are not as they were written; it says which.
        """
        try:
            self._check(range(len(self.pieces)), progress)
        except (OSError, ValueError) as error:
            raise damaged(self.path.parent, error) from error

    def _check(self, numbers: Iterable[int], progress: Callable[[int], None] | None = None) -> None:
        starts = np.cumsum([0, *(piece.rows for piece in self.pieces)])
        with self.path.open("rb") as file:
            for number in numbers:
                piece, first = self.pieces[number], int(starts[number])
                file.seek(first * self.row_bytes)
                if zlib.crc32(file.read(piece.rows * self.row_bytes)) != piece.crc32:
                    raise ValueError(
                        f"rows {first} to {first + piece.rows - 1} of {self.path.name} are not as they were"
                        " written"
                    )
                if progress is not None:
                    progress(piece.rows * self.row_bytes)

    @classmethod
    def open(cls, folder: str | Path) -> RowStore:
        """Open the store in `folder`, and see that it is what was written there.

        The size of the file and the checksums of a few pieces, spread over it, are compared each time. Where
        the time of its last change is not the recorded one, as after copying, all checksums are; if they are
        right, the new time is recorded. `verify` compares all in any case.

        Raises:
            FileNotFoundError: There is none.
            DataError: It is damaged, changed, incomplete or of another format.
        """
        folder = Path(folder)
        if not folder.exists():
            raise FileNotFoundError(folder)
        try:
            meta = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
            if meta.pop("format") != FORMAT_VERSION:
                raise ValueError("another format version")
            meta["notices"] = tuple(meta.get("notices", ()))
            modified = meta.pop("mtime_ns")
            if "layout" in meta:
                meta["layout"] = RowLayout.from_mapping(meta["layout"])
            store = cls(path=folder / ROWS_FILE, **meta)
            store._check_files(modified)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise damaged(folder, error) from error
        return store

    def _check_files(self, modified: int) -> None:
        expected, status = self.num_rows * self.row_bytes, self.path.stat()
        if status.st_size != expected:
            raise ValueError(f"{self.path.name} has {status.st_size} bytes, not {expected}")
        if store_identity(self.key, self.path.with_name(PIECES_FILE)) != self.identity:
            raise ValueError(f"{PIECES_FILE} is not the one that {META_FILE} describes")
        if sum(piece.rows for piece in self.pieces) != self.num_rows:
            raise ValueError(f"{PIECES_FILE} does not add up to {self.num_rows} rows")
        if status.st_mtime_ns == modified:
            spots = np.linspace(0, len(self.pieces) - 1, _SPOT_CHECKS).astype(int)
            self._check(sorted(set(spots.tolist())) if self.pieces else [])
            return
        logger.info("%s was touched since it was written; comparing all its checksums", self.path)
        self._check(range(len(self.pieces)))
        with contextlib.suppress(OSError):  # in a cache that is read-only all are compared each time
            write_meta(self)


def write_meta(store: RowStore) -> None:
    """Write `meta.json` for the rows as they lie on disk now."""
    meta: dict[str, Any] = {
        **asdict(store),
        "mtime_ns": store.path.stat().st_mtime_ns,
        "format": FORMAT_VERSION,
    }
    del meta["path"], meta["layout"]
    for layout in store._other_layout():
        meta["layout"] = layout
    part = store.path.with_name(f".{META_FILE}.{os.getpid()}")
    part.write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    part.replace(store.path.with_name(META_FILE))


def read_pieces(path: Path) -> list[PieceCounts]:
    """Read `pieces.jsonl`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [PieceCounts.from_line(line) for line in lines]


def store_identity(key: str, pieces: Path) -> str:
    """Return the digest of what rows were made from and of their checksums."""
    return hashlib.sha256(key.encode() + b"\n" + pieces.read_bytes()).hexdigest()


def damaged(folder: Path, error: Exception) -> DataError:
    """Return the error of a store that is not as it was written."""
    return DataError(f"{folder}: damaged rows ({error}); delete the folder to have it built again")


def default_cache_dir() -> Path:
    """Return `$TFLLM_CACHE`, else `~/.cache/tfllm`.

    Raises:
        ConfigError: There is no home folder for it to lie in.
    """
    if named := os.environ.get("TFLLM_CACHE"):
        return expand_home(named, "TFLLM_CACHE")
    return expand_home(
        "~/.cache/tfllm", "data.cache_dir", mend="write a folder there, or set TFLLM_CACHE to one"
    )
