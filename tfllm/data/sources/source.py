"""What every source of documents can do, and how its identity is hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Protocol


class Source(Protocol):
    """A repeatable stream of documents in a fixed order."""

    def documents(self) -> Iterator[str]:
        """Yield the documents' text. Every call starts again and yields the same texts in the same order."""
        ...

    def describe(self) -> str:
        """Return one line for logs and errors that says where the text comes from."""
        ...

    def fingerprint(self) -> str:
        """Return a sha256 hex digest over the settings and the content: equal digests, equal documents."""
        ...


def settings_digest(**settings: Any) -> str:
    """Return the sha256 hex digest of `settings` (JSON values), independent of their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
