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
        feature: What a row holds of them, one for each segment.
        settings: What they depend on.
    """

    feature: Feature
    settings: Mapping[str, Any]

    def of(self, record: Record) -> float:
        """Return what a row holds of a record's."""
        ...


class ClassLabels:
    """Places of classes.

    Args:
        class_names: The classes.
    """

    def __init__(self, class_names: Sequence[str]):
        self.class_names = tuple(class_names)
        self.places = {name: place for place, name in enumerate(self.class_names)}
        self.feature = Feature("labels", None, limit=len(self.class_names))
        self.settings: Mapping[str, Any] = {"class_names": self.class_names}

    def of(self, record: Record) -> int:
        """Return the place of a record's class.

        Raises:
            DataError: There is no such class.
        """
        name = label_name(record)
        if name not in self.places:
            known = ", ".join(map(repr, self.class_names[:_SHOWN]))
            raise DataError(
                f"{record.at}the label {name!r} is none of those that the training text has: {known}; mend the record,"
                " or add records with this label to the training text"
            )
        return self.places[name]


class NumberLabels:
    """Numbers as they are."""

    feature = Feature("labels", None, dtype="float32")
    settings: Mapping[str, Any] = {"labels": "numbers"}

    def of(self, record: Record) -> float:
        """Return a record's number."""
        return label_number(record)


def label_name(record: Record) -> str:
    """Return the name of a record's class.

    Raises:
        DataError: It has none, or something that names nothing.
    """
    value = record.value(LABEL)
    if isinstance(value, bool):
        return str(value).lower()
    name = str(value).strip() if isinstance(value, (str, int)) else ""
    if not name:
        raise DataError(
            f"{record.at}'label' must be the name or the number of a class, not {value!r}; mend the record, or name"
            " another column"
        )
    return name


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


def _number(value: Any) -> float:
    """NaN where it is none."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
