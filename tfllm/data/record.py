"""One entry of a source: its fields by column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfllm.data.errors import DataError

TEXT = "text"  # the only column of sources of plain text
TOKENS = "tokens"  # the words of a text, where it is given by words


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a source.

    Attributes:
        fields: Texts, numbers or lists, by column.
        place: Where it stands, for messages: the file and its line. Empty where nobody needs to know.
        columns_key: The key of the config that says which column is which, where there is one.
    """

    fields: Mapping[str, Any]
    place: str = ""
    columns_key: str = ""

    def text(self, column: str) -> str:
        """Return a column's text.

        Raises:
            DataError: There is no such column, or it holds something else.
        """
        value = self.value(column)
        if not isinstance(value, str):
            raise DataError(f"{self.at}{column!r} must be a text, not {value!r}; name another column")
        return value

    def value(self, column: str) -> Any:
        """Return what a column holds.

        Raises:
            DataError: There is no such column; it names those there are.
        """
        if column not in self.fields:
            there = ", ".join(map(repr, list(self.fields)[:20])) or "none"
            mend = f"; say which it is: {self.columns_key}: {{{column}: ...}}" if self.columns_key else ""
            raise DataError(f"{self.at}no column {column!r}; the columns are {there}{mend}")
        return self.fields[column]

    @property
    def at(self) -> str:
        """The place as a message begins with it."""
        return f"{self.place}: " if self.place else ""


def with_text(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return fields with a text, which is that of their words where they have words and no text."""
    words = fields.get(TOKENS)
    if TEXT in fields or not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return fields
    return {**fields, TEXT: " ".join(words)}


def text_record(text: str) -> Record:
    """Return the record of a document of plain text."""
    return Record({TEXT: text})
