"""What a source's columns are called here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from tfllm.data.errors import DataError

T = TypeVar("T")


def renamed(fields: Mapping[str, T], columns: Mapping[str, str], place: str, section: str) -> dict[str, T]:
    """Return fields under the names that the config gives them.

    Args:
        fields: By the names that the file has.
        columns: Ours to the file's; what is not named keeps its name, unless ours would hide it.
        place: Where the record stands, for messages.
        section: The section of the config.

    Raises:
        DataError: A column is not there; it names those there are.
    """
    if not columns:
        return dict(fields)
    for ours, theirs in columns.items():
        if theirs not in fields:
            there = ", ".join(map(repr, list(fields)[:20])) or "none"
            raise DataError(
                f"{place}: no column {theirs!r}, which {section}.columns.{ours} names; the columns are {there}"
            )
    others = {name: value for name, value in fields.items() if name not in columns.values()}
    return {**others, **{ours: fields[theirs] for ours, theirs in columns.items()}}
