"""What the column label of a record says: the name of a class, or a number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tfllm.data.errors import DataError
from tfllm.data.layout import Feature
from tfllm.data.record import Record

LABEL, WEIGHT = "label", "weight"
_SHOWN = 20


class Labels(Protocol):
    """Labels of one kind.

    Attributes:
        features: What a row holds of them for each segment.
        settings: What they depend on.
    """

    features: tuple[Feature, ...]
    settings: Mapping[str, Any]

    def of(self, record: Record) -> Mapping[str, float]:
        """Return a record's, by feature."""
        ...


class ClassLabels:
    """Places of classes.

    Args:
        class_names: The classes.
    """

    def __init__(self, class_names: Sequence[str]):
        self.class_names = tuple(class_names)
        self.places = {name: place for place, name in enumerate(self.class_names)}
        self.features: tuple[Feature, ...] = (Feature("labels", None, limit=len(self.class_names)),)
        self.settings: Mapping[str, Any] = {"class_names": self.class_names}

    def of(self, record: Record) -> Mapping[str, float]:
        """Return the place of a record's class.

        Raises:
            DataError: There is no such class.
        """
        return {"labels": _place(record, label_name(record), self.places)}


class ClassSetLabels:
    """Which classes a record has, a bit each.

    Args:
        class_names: The classes.
        separator: What stands between names where a label is one text.
    """

    def __init__(self, class_names: Sequence[str], separator: str):
        self.class_names, self.separator = tuple(class_names), separator
        self.places = {name: place for place, name in enumerate(self.class_names)}
        self.names = tuple(f"labels_{index}" for index in range(-(-len(self.class_names) // _BITS)))
        self.features = tuple(Feature(name, None) for name in self.names)
        self.settings: Mapping[str, Any] = {"class_names": self.class_names, "labels": "sets"}

    def place(self, index: int) -> tuple[str, int]:
        """Return which bit of which feature is a class's."""
        return self.names[index // _BITS], index % _BITS

    def of(self, record: Record) -> Mapping[str, float]:
        """Return the bits of a record's classes.

        Raises:
            DataError: There is no such class.
        """
        bits = dict.fromkeys(self.names, 0)
        for class_name in label_names(record, self.separator):
            name, bit = self.place(_place(record, class_name, self.places))
            bits[name] |= 1 << bit
        return bits


class NumberLabels:
    """Numbers as they are."""

    features: tuple[Feature, ...] = (Feature("labels", None, dtype="float32"),)
    settings: Mapping[str, Any] = {"labels": "numbers"}

    def of(self, record: Record) -> Mapping[str, float]:
        """Return a record's number."""
        return {"labels": label_number(record)}


def label_name(record: Record) -> str:
    """Return the name of a record's class.

    Raises:
        DataError: It has none, or something that names nothing.
    """
    value = record.value(LABEL)
    name = _name(value)
    if not name:
        raise DataError(
            f"{record.at}'label' must be the name or the number of a class, not {value!r}; mend the record, or name"
            " another column"
        )
    return name


def label_names(record: Record, separator: str) -> list[str]:
    """Return the names of a record's classes, each once; of an empty label none.

    Args:
        record: Its label is a list of names, or a text in which they are separated.
        separator: What stands between them there.

    Raises:
        DataError: It has something that names nothing.
    """
    value = record.value(LABEL)
    if isinstance(value, str):
        parts: Sequence[Any] = [part for part in value.split(separator) if part.strip()]
    else:
        parts = value if isinstance(value, (list, tuple)) else [value]
    names = [_name(part) for part in parts]
    if not all(names):
        raise DataError(
            f"{record.at}'label' must be a list of names or numbers of classes, or a text with {separator!r} between"
            f" them, not {value!r}; mend the record, name another column, or set task.label_separator"
        )
    return list(dict.fromkeys(names))


def label_number(record: Record) -> float:
    """Return a record's number.

    Raises:
        DataError: It has none, or one that float32 does not hold.
    """
    value = record.value(LABEL)
    number = _number(value)
    if not abs(number) < _LARGEST:
        raise DataError(
            f"{record.at}'label' must be a number, not {value!r}; mend the record, name another column, or learn"
            " classes with task.type=classification"
        )
    return number


def weight_of(record: Record) -> float:
    """Return how much a record counts: 1 where it says nothing.

    Raises:
        DataError: It says no number, or a negative one.
    """
    value = record.fields.get(WEIGHT, 1.0)
    weight = _number(value)
    if not 0.0 <= weight < _LARGEST:
        raise DataError(
            f"{record.at}'weight' must be a number that is not negative, not {value!r}; mend the record"
        )
    return weight


_LARGEST = 3.4e38  # of float32
_BITS = 31  # of an int32 that is not negative


def _name(value: Any) -> str:
    """Empty where it names nothing."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).strip() if isinstance(value, (str, int)) else ""


def _place(record: Record, name: str, places: Mapping[str, int]) -> int:
    if name not in places:
        known = ", ".join(map(repr, list(places)[:_SHOWN]))
        raise DataError(
            f"{record.at}the label {name!r} is none of those that the training text has: {known}; mend the record,"
            " or add records with this label to the training text"
        )
    return places[name]


def _number(value: Any) -> float:
    """NaN where it is none."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
