"""A piece of a corpus: the unit that is tokenised, packed, written and checked at once.

Pieces are cut from the documents alone, so the rows are the same whatever the number of processes and
however often the work was interrupted.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields

import numpy as np

from tfllm.data.errors import DataError
from tfllm.data.examples import ExampleMaker
from tfllm.data.layout import Rows
from tfllm.data.record import Record

# Characters in a piece. The last row of each piece is padded: at 4 characters a token half a row of 8192 is
# 0.2% of a piece. Each process holds a few pieces, and a killed run loses those in work.
PIECE_CHARACTERS = 8 << 20
_BATCH_CHARACTERS = 1 << 20  # given to the tokenizer at once: its answers take ten times as much memory
_PERHAPS = {"cut", "dropped"}  # counts that a line may leave out


@dataclass(frozen=True)
class Piece:
    """Records to make examples of.

    Attributes:
        records: The records.
        numbers: The place of each in the source, from 0.
        num_read: Records read from the source since the piece before, those left out included.
    """

    records: list[Record]
    numbers: list[int]
    num_read: int


def pieces_of(records: Iterator[tuple[Record, bool]], first: int = 0) -> Iterator[Piece]:
    """Cut a stream of (record, whether to keep it) after every `PIECE_CHARACTERS` of kept text.

    Args:
        records: The stream.
        first: The number of its first record.
    """
    kept: list[Record] = []
    numbers: list[int] = []
    size = num_read = 0
    for number, (record, keep) in enumerate(records, first):
        num_read += 1
        if keep:
            kept.append(record)
            numbers.append(number)
            size += _characters(record)
        if size >= PIECE_CHARACTERS:
            yield Piece(kept, numbers, num_read)
            kept, numbers, size, num_read = [], [], 0, 0
    if kept:
        yield Piece(kept, numbers, num_read)


@dataclass(frozen=True)
class PieceCounts:
    """What a tokenised piece holds; a line of `pieces.jsonl`.

    Attributes:
        num_read: As in `Piece`.
        rows: Rows.
        documents: Records of which there is at least one example.
        tokens: Tokens of the examples; for next-token prediction, targets with weight 1.
        bytes: UTF-8 bytes of the documents.
        crc32: Checksum of the rows as they lie on disk.
        cut: Examples of which some text is left out.
        dropped: Records of which there is none, though they have text.
    """

    num_read: int
    rows: int
    documents: int
    tokens: int
    bytes: int
    crc32: int
    cut: int = 0
    dropped: int = 0

    def as_line(self) -> str:
        """Return the line that `from_line` reads; it says nothing of what there is none of."""
        numbers = asdict(self)
        return json.dumps({k: v for k, v in numbers.items() if v or k not in _PERHAPS}) + "\n"

    @classmethod
    def from_line(cls, line: str) -> PieceCounts:
        """Read a line.

        Raises:
            ValueError: It is cut off or says something else.
        """
        numbers = json.loads(line)
        names = {field.name for field in fields(cls)}
        if not isinstance(numbers, dict) or not names - _PERHAPS <= numbers.keys() <= names:
            raise ValueError(f"{line.strip()!r} does not describe a piece")
        return cls(**numbers)


@dataclass(frozen=True)
class PieceTokenizer:
    """Turns the records of a piece into packed rows, ready for the disk. It can be pickled.

    Attributes:
        maker: The task's, that makes examples of records.
    """

    maker: ExampleMaker

    def rows(self, piece: Piece) -> tuple[bytes, PieceCounts]:
        """Return the rows, [R, width] of the layout's dtype as bytes, and what they hold.

        Raises:
            DataError: A record is not what the task needs, or the tokenizer gave an id beyond its `vocab_size`.
        """
        packer, layout = self.maker.packer(), self.maker.layout
        blocks: list[bytes] = []
        numbers: set[int] = set()
        tokens = num_bytes = cut = 0
        for records, places in _batches(piece):
            examples = list(self.maker.examples(records, places))
            numbers.update(example.number for example in examples)
            tokens += sum(example.num_tokens for example in examples)
            num_bytes += sum(example.num_bytes for example in examples)
            cut += sum(example.is_cut for example in examples)
            blocks.append(self._block(packer.add(examples)))
        blocks.append(self._block(packer.finish()))
        data = b"".join(blocks)
        num_rows = len(data) // (layout.width * np.dtype(layout.dtype).itemsize)
        counts = PieceCounts(
            piece.num_read,
            num_rows,
            len(numbers),
            tokens,
            num_bytes,
            zlib.crc32(data),
            cut=cut,
            dropped=len(piece.records) - len(numbers),
        )
        return data, counts

    def _block(self, rows: Rows) -> bytes:
        try:
            return self.maker.layout.packed(rows).tobytes()
        except ValueError as error:
            feature, largest = error.args
            # A larger id would be cut to 16 bits here, and would have no embedding later.
            raise DataError(
                f"the tokenizer gave the id {largest}, but its vocab_size is {feature.limit}; "
                "vocab_size must count added tokens"
            ) from error


def _characters(record: Record) -> int:
    return sum(len(value) for value in record.fields.values() if isinstance(value, str | list))


def _batches(piece: Piece) -> Iterator[tuple[list[Record], list[int]]]:
    batch: list[Record] = []
    numbers: list[int] = []
    size = 0
    for record, number in zip(piece.records, piece.numbers, strict=True):
        batch.append(record)
        numbers.append(number)
        size += _characters(record)
        if size >= _BATCH_CHARACTERS:
            yield batch, numbers
            batch, numbers, size = [], [], 0
    if batch:
        yield batch, numbers
