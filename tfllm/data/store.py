"""Tokenised rows on disk: written once for a corpus, a tokenizer and their settings, then read at random."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.data.errors import DataError
from tfllm.data.packing import RowPacker, Rows
from tfllm.data.sources.source import Source, settings_digest
from tfllm.data.split import split_of

FORMAT_VERSION = 1
FEATURES = ("token_ids", "targets", "segment_ids")  # a row's parts, in the order they lie on disk
_BATCH_BYTES = 1 << 20  # text tokenised at once: enough to keep every core busy, little to hold

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowStore:
    """Rows of fixed byte length in one file: `token_ids`, `targets`, `segment_ids`, each `seq_len` numbers.

    Attributes:
        path: The file, `rows.bin`; `meta.json` beside it holds the other attributes.
        num_rows: Rows in the file.
        seq_len: Tokens in a row.
        dtype: "uint16" where every id fits, else "int32".
        packing: Whether rows hold several documents (see `RowPacker`).
        pad_id: The id in padded places.
        num_documents: Documents with at least one token.
        num_tokens: Targets with weight 1: the documents' tokens and an end each.
        num_bytes: UTF-8 bytes of the documents' text.
        num_skipped: Lines or files of the whole source that could not be read and were skipped.
        key: The digest of everything that the rows depend on.
        source: The source, in words.
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
    source: str = ""

    @property
    def summary(self) -> str:
        """The numbers, in words."""
        skipped = f", {self.num_skipped:,} unreadable in the source and skipped" if self.num_skipped else ""
        return (
            f"{self.num_documents:,} documents, {self.num_bytes:,} bytes, {self.num_tokens:,} tokens in"
            f" {self.num_rows:,} rows of {self.seq_len}{skipped}"
        )

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return len(FEATURES) * self.seq_len * np.dtype(self.dtype).itemsize

    def read(self, indices: Sequence[int] | np.ndarray) -> Rows:
        """Return rows by index: a dict of int32 arrays [N, seq_len].

        Raises:
            IndexError: An index is not in [0, num_rows).
        """
        indices = np.asarray(indices, np.int64).reshape(-1)
        if indices.size and not 0 <= indices.min() <= indices.max() < self.num_rows:
            raise IndexError(
                f"row indices must be in [0, {self.num_rows}), got {indices.min()}..{indices.max()}"
            )
        rows = self._rows[indices].astype(np.int32)
        return {name: rows[:, part] for part, name in enumerate(FEATURES)}

    @cached_property
    def _rows(self) -> np.ndarray:
        shape = (self.num_rows, len(FEATURES), self.seq_len)
        return np.memmap(self.path, self.dtype, "r", shape=shape)

    @classmethod
    def open(cls, folder: str | Path) -> RowStore:
        """Open the store in `folder`.

        Raises:
            FileNotFoundError: There is none.
            DataError: It is damaged, incomplete or of another format.
        """
        folder = Path(folder)
        if not folder.exists():
            raise FileNotFoundError(folder)
        path = folder / "rows.bin"
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            if meta.pop("format") != FORMAT_VERSION:
                raise ValueError("another format version")
            store = cls(path=path, **meta)
            expected, size = store.num_rows * store.row_bytes, path.stat().st_size
            if size != expected:
                raise ValueError(f"rows.bin has {size} bytes, not {expected}")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"{folder}: damaged rows ({error}); delete the folder to have it built again"
            ) from error
        return store


def default_cache_dir() -> Path:
    """Return `$TFLLM_CACHE`, else `~/.cache/tfllm`."""
    return Path(os.environ.get("TFLLM_CACHE") or Path.home() / ".cache" / "tfllm")


def prepare_rows(
    *,
    source: Source,
    tokenizer: Any,
    seq_len: int,
    packing: bool = True,
    cache_dir: str | Path | None = None,
    split: tuple[str, float, int] | None = None,
    require_full_row: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RowStore:
    """Tokenise a source into rows on disk, or open the rows that an earlier call with the same key wrote.

    Rows are written to a temporary folder and renamed, so they appear whole or not at all; of two processes
    that race, the slower takes the faster one's rows. Damaged rows are built again, with a one-line warning.

    Args:
        source: The documents.
        tokenizer: Anything with `encode_batch`, `bos_id`, `eos_id`, `pad_id`, `vocab_size`, `fingerprint`.
        seq_len: Tokens in a row.
        packing: Whether rows hold several documents (see `RowPacker`).
        cache_dir: Where rows are kept; default `$TFLLM_CACHE`, else `~/.cache/tfllm`.
        split: `("train" | "validation", fraction, seed)` keeps one side of the source (see `split_of`).
        require_full_row: With packing, refuse text that does not fill one row. Default: yes, but not for the
            validation side of a split, which may well be small.
        progress: Called after each batch of documents with the documents and tokens so far.

    Raises:
        DataError: The source is empty or too short for a row, or the rows cannot be written.
    """
    if split is not None and split[0] not in ("train", "validation"):
        raise DataError(f"split={split!r} must start with 'train' or 'validation'")
    job = _Job(source, tokenizer, seq_len, packing, split)
    root = Path(cache_dir).expanduser() if cache_dir is not None else default_cache_dir()
    key = job.key()
    folder = root / "rows" / key[:32]
    if (store := _open_sound(folder, notify=True)) is None:
        _build(job, key, folder, progress)
        store = RowStore.open(folder)
    if require_full_row is None:
        require_full_row = split is None or split[0] == "train"
    _check_size(store, job, require_full_row)
    return store


@dataclass
class _Job:
    """What rows are made from."""

    source: Source
    tokenizer: Any
    seq_len: int
    packing: bool
    split: tuple[str, float, int] | None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("documents", "tokens", "bytes"), 0))

    def key(self) -> str:
        return settings_digest(
            format=FORMAT_VERSION,
            source=self.source.fingerprint(),
            tokenizer=str(self.tokenizer.fingerprint),
            ids=[int(number) for number in self.special_ids().values()],
            dtype=self.dtype,
            seq_len=self.seq_len,
            packing=self.packing,
            split=self.split,
        )

    @property
    def dtype(self) -> str:
        return "uint16" if max(self.tokenizer.vocab_size - 1, self.seq_len) < 1 << 16 else "int32"

    def special_ids(self) -> dict[str, int]:
        """Without a begin token documents start with the end token; without a pad token any id pads."""
        eos = self.tokenizer.eos_id
        if eos is None:
            raise DataError("the tokenizer has no eos_id, which ends each document; add an end token to it")
        bos, pad = self.tokenizer.bos_id, self.tokenizer.pad_id
        return {"bos_id": eos if bos is None else bos, "eos_id": eos, "pad_id": 0 if pad is None else pad}

    def rows(self) -> Iterator[Rows]:
        packer = RowPacker(seq_len=self.seq_len, packing=self.packing, **self.special_ids())
        for texts in self._batches():
            documents = self.tokenizer.encode_batch(texts)
            kept = [(text, ids) for text, ids in zip(texts, documents, strict=True) if len(ids)]
            self.counts["documents"] += len(kept)
            self.counts["tokens"] += sum(len(ids) + 1 for _, ids in kept)
            self.counts["bytes"] += sum(len(text.encode()) for text, _ in kept)
            yield packer.add(ids for _, ids in kept)
        yield packer.finish()

    def _batches(self) -> Iterator[list[str]]:
        texts: list[str] = []
        size = 0
        for text in self._texts():
            if not text or (self.split and self._side(text) != self.split[0]):
                continue
            texts.append(text)
            size += len(text)
            if size >= _BATCH_BYTES:
                yield texts
                texts, size = [], 0
        if texts:
            yield texts

    def _texts(self) -> Iterator[str]:
        try:
            yield from self.source.documents()
        except OSError as error:  # not to be taken for an error in writing rows
            raise DataError(
                f"{self.source.describe()}: cannot be read ({error}); check the source"
            ) from error

    def _side(self, text: str) -> str:
        assert self.split is not None
        return split_of(text, fraction=self.split[1], seed=self.split[2])


def _open_sound(folder: Path, *, notify: bool) -> RowStore | None:
    try:
        return RowStore.open(folder)
    except FileNotFoundError:
        return None
    except DataError as error:
        if notify:
            logger.warning("building rows again: %s", error)
        return None


def _build(job: _Job, key: str, folder: Path, progress: Callable[[int, int], None] | None) -> None:
    written = 0
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
        temporary.mkdir()  # unlike tempfile's folders, readable by whom the umask lets read the cache
        with (temporary / "rows.bin").open("wb") as file:
            for rows in job.rows():
                block = np.stack([rows[name] for name in FEATURES], axis=1).astype(job.dtype)
                _check_ids(rows, job.tokenizer.vocab_size)
                written += block.nbytes
                file.write(block.tobytes())
                if progress is not None:
                    progress(job.counts["documents"], job.counts["tokens"])
        _write_meta(temporary, job, key, written)
        _publish(temporary, folder)
    except OSError as error:
        raise _unwritable(folder.parent, written, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _check_ids(rows: Rows, vocab_size: int) -> None:
    """A larger id would be cut to 16 bits here, and would have no embedding later."""
    largest = max(int(rows[name].max(initial=0)) for name in ("token_ids", "targets"))
    if largest >= vocab_size:
        raise DataError(
            f"the tokenizer gave the id {largest}, but its vocab_size is {vocab_size}; "
            "vocab_size must count added tokens"
        )


def _write_meta(temporary: Path, job: _Job, key: str, written: int) -> None:
    store = RowStore(
        path=temporary / "rows.bin",
        num_rows=0,
        seq_len=job.seq_len,
        dtype=job.dtype,
        packing=job.packing,
        pad_id=job.special_ids()["pad_id"],
        num_documents=job.counts["documents"],
        num_tokens=job.counts["tokens"],
        num_bytes=job.counts["bytes"],
        num_skipped=getattr(job.source, "skipped", 0),
        key=key,
        source=job.source.describe(),
    )
    meta = {**asdict(store), "num_rows": written // store.row_bytes, "format": FORMAT_VERSION}
    del meta["path"]
    (temporary / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def _publish(temporary: Path, folder: Path) -> None:
    """Rename into place; sound rows that another process put there meanwhile stay, damaged ones go."""
    try:
        temporary.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        if _open_sound(folder, notify=False) is None:
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
            temporary.rename(folder)


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
        f"{job.source.describe()}{f', {job.split[0]} side' if job.split else ''}: "
        f"{store.num_documents} documents with {store.num_tokens} tokens"
    )
    if store.num_rows == 0:
        mend = (
            "choose another validation fraction or split seed" if job.split else "check the path and text_key"
        )
        raise DataError(f"{found}, but at least one document is needed; give more text, or {mend}")
    if store.packing and require_full_row and store.num_tokens < store.seq_len:
        raise DataError(
            f"{found}, but one row needs data.seq_len={store.seq_len} tokens; set data.seq_len to at most "
            f"{store.num_tokens}, or give more text"
        )
