"""What every source of records can do, and how its identity is hashed."""

from __future__ import annotations

import abc
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tfllm.data.record import Record, text_record


class Source(abc.ABC):
    """A repeatable stream of records in a fixed order.

    Attributes:
        section: What messages call the settings: the section of the config.
        files: Those that it reads, if it reads files.
        skipped: Lines and files passed over by the last reading.
        notices: What that found strange, in words.
    """

    section: str = "data.train"
    files: Sequence[Path] = ()
    skipped: int = 0
    notices: Sequence[str] = ()

    @abc.abstractmethod
    def records(self) -> Iterator[Record]:
        """Yield the records. Every call starts again and yields the same ones in the same order."""

    @abc.abstractmethod
    def describe(self) -> str:
        """Return one line for logs and errors that says where the records come from."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Return a sha256 hex digest over the settings and the content: equal digests, equal records."""


class TextSource(Source):
    """A source of documents, whose records have the one column `text`."""

    @abc.abstractmethod
    def documents(self) -> Iterator[str]:
        """Yield the documents' text. Every call starts again and yields the same texts in the same order."""

    def records(self) -> Iterator[Record]:
        """Yield a record for each document."""
        return map(text_record, self.documents())


def settings_digest(**settings: Any) -> str:
    """Return the sha256 hex digest of `settings` (JSON values), independent of their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
