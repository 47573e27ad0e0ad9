"""Records → tokenised rows on disk: streamed, in parallel, and gone on with where it was interrupted."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import shutil
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.config.home import expand_home
from tfllm.data.conversation import first_text
from tfllm.data.errors import DataError
from tfllm.data.examples import ExampleMaker
from tfllm.data.next_tokens import NextTokens
from tfllm.data.piece import Piece, PieceCounts, PieceTokenizer, pieces_of
from tfllm.data.processes import ProcessError, TokenizingProcesses, available_cores
from tfllm.data.record import Record
from tfllm.data.sources.source import Source, settings_digest
from tfllm.data.split import Split
from tfllm.data.store import (
    FORMAT_VERSION,
    PIECES_FILE,
    ROWS_FILE,
    RowStore,
    default_cache_dir,
    store_identity,
    write_meta,
)
from tfllm.data.store_writer import StoreWriter, part_folder, publish

Progress = Callable[[int, int], None]

logger = logging.getLogger(__name__)


def prepare_rows(
    *,
    source: Source,
    tokenizer: Any,
    seq_len: int,
    packing: bool = True,
    maker: ExampleMaker | None = None,
    cache_dir: str | Path | None = None,
    split: Split | None = None,
    require_full_row: bool | None = None,
    require_rows: bool = True,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> RowStore:
    """Tokenise a source into rows on disk, or open the rows that an earlier call with the same key wrote.

    Documents are streamed in pieces of some megabytes (see `tfllm.data.piece`), each packed on its own, so
    memory does not grow with the text, and the rows are the same for every `num_workers`. The store appears
    whole or not at all. A call that was killed or interrupted is gone on with after the last whole piece; of
    two processes with the same key, the second waits and takes the first one's rows. Damaged rows are built
    again, with a one-line warning.

    Args:
        source: The records. A single document is held in memory, and so are its tokens.
        tokenizer: Anything with `encode_batch`, `bos_id`, `eos_id`, `pad_id`, `vocab_size`, `fingerprint`.
        seq_len: Tokens in a row.
        packing: Whether rows hold several documents or examples.
        maker: The task's, that makes examples of records; `None` is next-token prediction (see `NextTokens`).
        cache_dir: Where rows are kept; default `$TFLLM_CACHE`, else `~/.cache/tfllm`.
        split: Keeps one side of the source.
        require_full_row: With packing, refuse text that does not fill one row. Default: yes, but not for a side of a
            split that is held out, which may well be small.
        require_rows: Refuse text without any document.
        num_workers: Processes that tokenise; 1 is this process alone, `None` as many as there are cores. Text
            of a single piece starts none.
        progress: Called with the documents and their bytes so far, once before the first piece (not 0 where
            an earlier call is gone on with) and after each piece.

    Raises:
        DataError: The source is empty or too short for a row, the rows cannot be written, or a process died.
    """
    maker = maker or NextTokens(tokenizer, seq_len=seq_len, packing=packing)
    job = _Job(source, tokenizer, maker, packing, split)
    root = expand_home(cache_dir, "data.cache_dir") if cache_dir is not None else default_cache_dir()
    key = job.key()
    folder = root / "rows" / key[:32]
    if (store := _open_sound(folder, notify=True)) is None:
        _build(job, key, folder, num_workers or available_cores(), progress)
        store = RowStore.open(folder)
    if require_full_row is None:
        require_full_row = split is None or split.side == "train"
    if store.num_rows or require_rows:
        _check_size(store, job, require_full_row and isinstance(maker, NextTokens))
    return store


@dataclass
class _Job:
    """What rows are made from."""

    source: Source
    tokenizer: Any
    maker: ExampleMaker
    packing: bool
    split: Split | None

    def key(self) -> str:
        return settings_digest(
            format=FORMAT_VERSION,
            source=self.source.fingerprint(),
            tokenizer=str(self.tokenizer.fingerprint),
            dtype=self.maker.layout.dtype,
            split=None if self.split is None else self.split.key,
            **self.maker.settings,
        )

    @property
    def row_bytes(self) -> int:
        return self.maker.layout.width * np.dtype(self.maker.layout.dtype).itemsize

    def pieces(self, num_done: int) -> Iterator[Piece]:
        """The pieces that come after the first `num_done` records of the source."""
        records = itertools.islice(self._records(), num_done, None)
        return pieces_of(((record, self.is_ours(record)) for record in records), num_done)

    def _records(self) -> Iterator[Record]:
        try:
            yield from self.source.records()
        except OSError as error:  # not to be taken for an error in writing rows
            raise DataError(
                f"{self.source.describe()}: cannot be read ({error}); check the source"
            ) from error

    def is_ours(self, record: Record) -> bool:
        """Whether a record is on this side, and anything is made of it."""
        if not self.maker.keeps(record):
            return False
        return self.split is None or self.split.holds(record, self.maker.split_column)

    def store(self, folder: Path, key: str, pieces: list[PieceCounts]) -> RowStore:
        """The finished store in `folder`."""
        return RowStore(
            path=folder / ROWS_FILE,
            num_rows=sum(piece.rows for piece in pieces),
            seq_len=self.maker.layout.sides[0][1],
            dtype=self.maker.layout.dtype,
            packing=self.packing,
            pad_id=int(self.maker.layout.features[0].fill),
            layout=self.maker.layout,
            num_documents=sum(piece.documents for piece in pieces),
            num_tokens=sum(piece.tokens for piece in pieces),
            num_bytes=sum(piece.bytes for piece in pieces),
            num_skipped=self.source.skipped,
            key=key,
            identity=store_identity(key, folder / PIECES_FILE),
            source=self.source.describe(),
            notices=tuple(self.source.notices),
            num_cut=sum(piece.cut for piece in pieces),
            num_dropped=sum(piece.dropped for piece in pieces),
        )


def _open_sound(folder: Path, *, notify: bool) -> RowStore | None:
    try:
        return RowStore.open(folder)
    except FileNotFoundError:
        return None
    except DataError as error:
        if notify:
            logger.warning("building rows again: %s", error)
        return None


def _build(job: _Job, key: str, folder: Path, num_workers: int, progress: Progress | None) -> None:
    try:
        with part_folder(folder) as part:
            if _open_sound(folder, notify=False) is None:
                _write(job, key, part, num_workers, progress)
                publish(part, folder)
            else:  # of the process that we waited for
                shutil.rmtree(part)
    except OSError as error:
        raise _unwritable(folder.parent, 0, error) from error


def _write(job: _Job, key: str, part: Path, num_workers: int, progress: Progress | None) -> None:
    """Write what is missing in `part`. Whole pieces stay there when the same text can be gone on with."""
    with StoreWriter(part, job.row_bytes) as writer:
        try:
            _tell(progress, writer.pieces)
            pieces = job.pieces(sum(piece.num_read for piece in writer.pieces))
            # Closed by name: an error's traceback would keep the processes alive.
            with contextlib.closing(_tokenized(pieces, PieceTokenizer(job.maker), num_workers)) as tokenized:
                for data, counts in tokenized:
                    writer.append(data, counts)
                    _tell(progress, writer.pieces)
            write_meta(job.store(part, key, writer.pieces))
        except BaseException as error:
            mended_by_other_text = isinstance(error, DataError) and not isinstance(error, ProcessError)
            if mended_by_other_text or isinstance(error, OSError) or not writer.pieces:
                shutil.rmtree(part, ignore_errors=True)
            if isinstance(error, OSError):
                raise _unwritable(part.parent, writer.written, error) from error
            raise


def _tell(progress: Progress | None, pieces: list[PieceCounts]) -> None:
    if progress is not None:
        progress(sum(piece.documents for piece in pieces), sum(piece.bytes for piece in pieces))


def _tokenized(
    pieces: Iterator[Piece], tokenizer: PieceTokenizer, num_workers: int
) -> Generator[tuple[bytes, PieceCounts], None, None]:
    first = list(itertools.islice(pieces, 2))
    pieces = itertools.chain(first, pieces)
    if len(first) < 2 or num_workers == 1:
        yield from map(tokenizer.rows, pieces)
        return
    with TokenizingProcesses(tokenizer, num_workers) as processes:
        yield from processes.rows(pieces)


def _unwritable(root: Path, written: int, error: OSError) -> DataError:
    needed = f" after {written:,} bytes of rows; more are needed" if written else ""
    space = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        existing = next((place for place in (root, *root.parents) if place.exists()), root)
        space = f" ({shutil.disk_usage(existing).free:,} bytes are free)"
    return DataError(
        f"{root}: rows cannot be written{needed} ({error.strerror or error}){space}; set data.cache_dir (or "
        "TFLLM_CACHE) to a writable folder with room"
    )


def _check_size(store: RowStore, job: _Job, require_full_row: bool) -> None:
    found = (
        f"{job.source.describe()}{f', {job.split.side} side' if job.split else ''}: "
        f"{store.num_documents} documents with {store.num_tokens} tokens"
    )
    if store.num_rows == 0:
        raise DataError(f"{found}, but at least one document is needed{store.remarks}; {_mend(job)}")
    if store.num_documents < job.maker.fewest_documents:
        raise DataError(
            f"{found}, but at least {job.maker.fewest_documents} documents are needed, as parts of one are put beside"
            f" parts of another; give more, or write what separates documents inside a file as"
            f' {job.source.section}.split_on, e.g. split_on: "\\n\\n"'
        )
    if store.packing and require_full_row and store.num_tokens < store.seq_len:
        raise DataError(
            f"{found}, but one row needs data.seq_len={store.seq_len} tokens; set data.seq_len to at most "
            f"{store.num_tokens}, or give more text"
        )


def _mend(job: _Job) -> str:
    """What to do where one side of a split, or the whole source, has no document."""
    section = job.source.section
    texts = (first_text(record, job.maker.split_column) for record in job.source.records())
    read = sum(1 for _ in itertools.islice((text for text in texts if text.strip()), 2))
    if read == 0:
        return f"it holds no text; check {section}.path"
    if any(map(job.is_ours, job.source.records())):
        return "none of its documents fits into a row, or holds anything to learn; raise data.seq_len"
    if job.split is None:
        return "its text has no tokens; give more text"
    held_out = f"name the held-out text in data.{'test' if job.split.side == 'test' else 'validation'}"
    if read == 1:
        return (
            f"it is one document, which no share divides: {held_out}, or write what separates documents "
            f'inside a file as {section}.split_on, e.g. split_on: "\\n\\n"'
        )
    return f"it has too few documents for the share: write another {job.split.share}, or {held_out}"
