"""A piece of a corpus: the unit that is tokenised, packed, written and checked at once.

Pieces are cut from the documents alone, so the rows are the same whatever the number of processes and
however often the work was interrupted.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from tfllm.data.errors import DataError
from tfllm.data.packing import RowPacker, Rows

FEATURES = ("token_ids", "targets", "segment_ids")  # a row's parts, in the order they lie on disk

# Characters in a piece. The last row of each piece is padded: at 4 characters a token half a row of 8192 is
# 0.2% of a piece. Each process holds a few pieces, and a killed run loses those in work.
PIECE_CHARACTERS = 8 << 20
_BATCH_CHARACTERS = 1 << 20  # given to the tokenizer at once: its answers take ten times as much memory


@dataclass(frozen=True)
class Piece:
    """Documents to tokenise.

    Attributes:
        texts: The documents.
        num_read: Documents read from the source since the piece before, those left out included.
    """

    texts: list[str]
    num_read: int


def pieces_of(documents: Iterator[tuple[str, bool]]) -> Iterator[Piece]:
    """Cut a stream of (document, whether to keep it) after every `PIECE_CHARACTERS` of kept text."""
    texts: list[str] = []
    size = num_read = 0
    for text, kept in documents:
        num_read += 1
        if kept:
            texts.append(text)
            size += len(text)
        if size >= PIECE_CHARACTERS:
            yield Piece(texts, num_read)
            texts, size, num_read = [], 0, 0
    if texts:
        yield Piece(texts, num_read)


@dataclass(frozen=True)
class PieceCounts:
    """What a tokenised piece holds; a line of `pieces.jsonl`.

    Attributes:
        num_read: As in `Piece`.
        rows: Rows.
        documents: Documents with at least one token.
        tokens: Targets with weight 1.
        bytes: UTF-8 bytes of the documents.
        crc32: Checksum of the rows as they lie on disk.
    """

    num_read: int
    rows: int
    documents: int
    tokens: int
    bytes: int
    crc32: int

    def as_line(self) -> str:
        """Return the line that `from_line` reads."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> PieceCounts:
        """Read a line.

        Raises:
            ValueError: It is cut off or says something else.
        """
        numbers = json.loads(line)
        if not isinstance(numbers, dict) or numbers.keys() != {field.name for field in fields(cls)}:
            raise ValueError(f"{line.strip()!r} does not describe a piece")
        return cls(**numbers)


@dataclass(frozen=True)
class PieceTokenizer:
    """Turns the documents of a piece into packed rows, ready for the disk. It can be pickled.

    Attributes:
        tokenizer: Anything with `encode_batch` and `vocab_size`.
        seq_len: Tokens in a row.
        packing: See `RowPacker`.
        bos_id: See `RowPacker`.
        eos_id: See `RowPacker`.
        pad_id: See `RowPacker`.
        dtype: "uint16" or "int32".
    """

    tokenizer: Any
    seq_len: int
    packing: bool
    bos_id: int
    eos_id: int
    pad_id: int
    dtype: str

    def rows(self, piece: Piece) -> tuple[bytes, PieceCounts]:
        """Return the rows, [R, 3, seq_len] of `dtype` as bytes, and what they hold.

        Raises:
            DataError: The tokenizer gave an id beyond its `vocab_size`.
        """
        packer = RowPacker(
            seq_len=self.seq_len,
            packing=self.packing,
            bos_id=self.bos_id,
            eos_id=self.eos_id,
            pad_id=self.pad_id,
        )
        blocks, documents, tokens, num_bytes = [], 0, 0, 0
        for batch in _batches(piece.texts):
            ids = self.tokenizer.encode_batch(batch)
            kept = [(text, given) for text, given in zip(batch, ids, strict=True) if len(given)]
            documents += len(kept)
            tokens += sum(len(given) + 1 for _, given in kept)
            num_bytes += sum(len(text.encode()) for text, _ in kept)
            blocks.append(self._block(packer.add(given for _, given in kept)))
        blocks.append(self._block(packer.finish()))
        data = b"".join(blocks)
        num_rows = len(data) // (len(FEATURES) * self.seq_len * np.dtype(self.dtype).itemsize)
        return data, PieceCounts(piece.num_read, num_rows, documents, tokens, num_bytes, zlib.crc32(data))

    def _block(self, rows: Rows) -> bytes:
        largest = max(int(rows[name].max(initial=0)) for name in ("token_ids", "targets"))
        # A larger id would be cut to 16 bits here, and would have no embedding later.
        if largest >= self.tokenizer.vocab_size:
            raise DataError(
                f"the tokenizer gave the id {largest}, but its vocab_size is {self.tokenizer.vocab_size}; "
                "vocab_size must count added tokens"
            )
        return np.stack([rows[name] for name in FEATURES], axis=1).astype(self.dtype).tobytes()


def _batches(texts: list[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
