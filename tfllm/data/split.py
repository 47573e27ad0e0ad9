"""Which side of a split a record falls on: to train on, to validate on, or to test on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from tfllm.data.conversation import first_text
from tfllm.data.errors import DataError
from tfllm.data.record import Record

SIDES = ("train", "validation", "test")
_SHOWN = 80  # characters of a value that is shown


@dataclass(frozen=True)
class Split:
    """One side of a source, of which records are held out by a hash of what they say.

    Attributes:
        side: train, validation or test.
        seed: Of what is held out to validate on. What is held out to test on is the same whatever the seed, so that
            runs of several seeds are compared on one text.
        validation: Share held out to validate on, of what is not held out to test on; 0 holds nothing out.
        test: Share held out to test on; 0 holds nothing out.
        column: Records that agree in it fall on one side. None is the first text that the task reads.

    Raises:
        DataError: There is no such side, or a share is not from 0 to below 1.
    """

    side: str
    seed: int = 0
    validation: float = 0.0
    test: float = 0.0
    column: str | None = None

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise DataError(f"side={self.side!r} of a split must be one of {', '.join(SIDES)}")
        for name in ("validation", "test"):
            share = getattr(self, name)
            if not 0.0 <= share < 1.0:
                raise DataError(f"{name} share={share} must lie between 0 and 1; try 0.05")

    @property
    def share(self) -> str:
        """The key of the config that says how large this side is."""
        return "data.test_fraction" if self.side == "test" else "data.validation_fraction"

    @property
    def key(self) -> tuple[Any, ...]:
        """What the side depends on, JSON values."""
        more = (self.test, self.column) if self.test or self.column is not None else ()
        return (self.side, self.validation, self.seed, *more)

    def holds(self, record: Record, column: str) -> bool:
        """Return whether a record is on this side.

        Args:
            record: The record.
            column: Decides where the split names none.

        Raises:
            DataError: There is no such column, or it holds neither a text, nor messages, nor a whole number.
        """
        text = first_text(record, column) if self.column is None else _group(record, self.column)
        return split_of(text, validation=self.validation, test=self.test, seed=self.seed) == self.side


def split_of(text: str, *, validation: float = 0.0, test: float = 0.0, seed: int = 0) -> str:
    """Return "train", "validation" or "test" by hashes of a text.

    The answer depends on the text alone, so identical documents always fall on one side, and adding documents
    moves no other.

    Args:
        text: The document, or what several have in common.
        validation: As in `Split`, below 1.
        test: As in `Split`, below 1.
        seed: As in `Split`.
    """
    if test and _place("test", text) < test * 2.0**64:
        return "test"
    return "validation" if _place(seed, text) < validation * 2.0**64 else "train"


def _place(purpose: int | str, text: str) -> int:
    """A number from 0 to below 2**64."""
    digest = hashlib.sha256(f"{purpose}:".encode() + text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def _group(record: Record, column: str) -> str:
    value = record.value(column)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise DataError(
            f"{record.at}data.split_by={column}: {str(value)[:_SHOWN]!r} is neither a text nor a whole number, which"
            " say what belongs together; name another column"
        )
    return str(value)
