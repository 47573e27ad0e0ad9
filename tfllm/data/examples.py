"""What a task makes of a source's records before training: examples, as named arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tfllm.data.layout import RowLayout, Rows
from tfllm.data.record import Record


@dataclass(frozen=True, slots=True)
class Example:
    """What becomes one segment of a row or several next to each other, or, of a document to be cut, several anywhere.

    Attributes:
        number: The place of its record in the source, from 0: by it a prediction finds its way back.
        arrays: Features: [n] with a value for each token of their side, or one for each segment.
        num_tokens: Tokens that it puts into rows.
        num_bytes: UTF-8 bytes of text that it stands for.
        sizes: Tokens of each of its segments, where it has several.
        is_cut: Some of the record's text is left out, for it is too long.
    """

    number: int
    arrays: Mapping[str, Any]
    num_tokens: int
    num_bytes: int
    sizes: tuple[int, ...] = ()
    is_cut: bool = False

    @property
    def num_segments(self) -> int:
        """Segments of a row that it takes."""
        return len(self.sizes) or 1


_OPEN_ROWS = 256  # into which examples with several sides may go


class Packer(Protocol):
    """Puts examples into rows."""

    def add(self, examples: Sequence[Example]) -> Rows:
        """Return the rows that are full with these, perhaps none."""
        ...

    def finish(self) -> Rows:
        """Return the rows that are left."""
        ...


class ExampleMaker(Protocol):
    """A task's work before training. It runs in processes of its own: it can be pickled and imports no TensorFlow."""

    @property
    def layout(self) -> RowLayout:
        """What its rows hold."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that the examples depend on, beside records and tokenizer; JSON values."""
        ...

    @property
    def split_column(self) -> str:
        """The column whose text says on which side of a split a record falls."""
        ...

    @property
    def fewest_documents(self) -> int:
        """How many records are needed for any example."""
        ...

    def keeps(self, record: Record) -> bool:
        """Return whether anything is made of a record."""
        ...

    def examples(self, records: Sequence[Record], numbers: Sequence[int]) -> Iterator[Example]:
        """Yield the examples of records, in their order.

        Raises:
            DataError: A record is not what the task needs.
        """
        ...

    def packer(self) -> Packer:
        """Return what puts the examples of one piece into rows."""
        ...


class WholeSegments:
    """Puts whole examples into rows: several to a row where there is room, or one.

    The longest come first and each goes where it fits most tightly, as "best fit decreasing" has it, which needs
    hardly more than 11/9 of the fewest rows possible (Johnson 1974), where the number of segments is not the limit. Of
    rows with several sides it goes where least room is left on all of them together, among some hundred that are open.
    The examples of a row, and the rows, are then put in the order of the source. No example is divided.

    Args:
        layout: The rows.
        packing: Several examples to a row.
    """

    def __init__(self, layout: RowLayout, *, packing: bool):
        self.layout, self.packing = layout, packing

    def add(self, examples: Sequence[Example]) -> Rows:
        """Return the rows of these examples, the last ones not full."""
        groups = [[example] for example in examples]
        if self.packing:
            groups = (
                self._groups(examples) if len(self.layout.sides) == 1 else self._groups_of_sides(examples)
            )
            groups = sorted(
                (sorted(row, key=lambda each: each.number) for row in groups), key=lambda row: row[0].number
            )
        rows = self.layout.empty(len(groups))
        for index, group in enumerate(groups):
            self._write(rows, index, group)
        return rows

    def finish(self) -> Rows:
        """Return no row: `add` leaves none open."""
        return self.layout.empty(0)

    def _groups(self, examples: Sequence[Example]) -> list[list[Example]]:
        [(_, length)] = self.layout.sides
        needed = max((example.num_segments for example in examples), default=1)
        open_rows: list[list[int]] = [[] for _ in range(length + 1)]  # by the room that is left
        rooms = 0  # bit r: a row with room r is open
        rows: list[list[Example]] = []
        taken: list[int] = []  # segments of each
        for example in sorted(examples, key=lambda each: -each.num_tokens):
            size = example.num_tokens
            fitting = rooms >> size
            if fitting:
                room = size + (fitting & -fitting).bit_length() - 1  # the smallest
                row = open_rows[room].pop()
                rooms &= ~(0 if open_rows[room] else 1 << room)
            else:
                rows.append([])
                taken.append(0)
                row, room = len(rows) - 1, length
            rows[row].append(example)
            taken[row] += example.num_segments
            if taken[row] + needed <= self.layout.segments:
                open_rows[room - size].append(row)
                rooms |= 1 << (room - size)
        return rows

    def _groups_of_sides(self, examples: Sequence[Example]) -> list[list[Example]]:
        lengths = np.array([length for _, length in self.layout.sides])
        first = [
            next(each.name for each in self.layout.features if each.side == side)
            for side, _ in self.layout.sides
        ]
        sized = [(example, np.array([len(example.arrays[name]) for name in first])) for example in examples]
        rooms = np.zeros([_OPEN_ROWS, len(lengths)], np.int64)  # what is left on each side of the open rows
        open_rows: list[list[Example]] = [[] for _ in range(_OPEN_ROWS)]
        rows: list[list[Example]] = []
        for example, size in sorted(sized, key=lambda pair: -float(np.max(pair[1] / lengths))):
            left = np.where((rooms >= size).all(axis=1), rooms.sum(axis=1), np.iinfo(np.int64).max)
            place = int(left.argmin())
            if not (rooms[place] >= size).all():  # a new row, in the place of the fullest
                place = int(rooms.sum(axis=1).argmin())
                rooms[place], open_rows[place] = lengths, []
                rows.append(open_rows[place])
            open_rows[place].append(example)
            taken = sum(each.num_segments for each in open_rows[place])
            rooms[place] = rooms[place] - size if taken < self.layout.segments else 0
        return rows

    def _write(self, rows: Rows, index: int, group: Sequence[Example]) -> None:
        filled = {side: 0 for side, _ in self.layout.sides}
        segment = 0
        for example in group:
            last = segment + example.num_segments
            starts, filled = filled, dict(filled)
            for feature in self.layout.features:
                if feature.side is None:
                    rows[feature.name][index, segment:last] = example.arrays[feature.name]
                elif feature.name != f"{feature.side}segment_ids":
                    values = np.asarray(example.arrays[feature.name])
                    start = starts[feature.side]
                    filled[feature.side] = start + len(values)
                    rows[feature.name][index, start : start + len(values)] = values
            for side, stop in filled.items():
                sizes = example.sizes or (stop - starts[side],)
                numbers = np.repeat(np.arange(segment + 1, last + 1), sizes)
                rows[f"{side}segment_ids"][index, starts[side] : stop] = numbers
            segment = last
