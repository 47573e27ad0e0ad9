"""JSON lines: one object a line, one document an object."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tfllm.data.errors import DataError, check_choice
from tfllm.data.sources.files import content_digest, matching_files, unreadable
from tfllm.data.sources.source import settings_digest


class JsonlSource:
    """Files of JSON objects, one a line, plain or `.gz`; one document an object. Blank lines are passed over.

    Args:
        path: A path or glob, or a list of them; `**` matches any depth.
        text_key: The key of the text in each object.
        on_error: "raise", or "skip" a line that is broken, lacks the key or holds no string (counted in
            `skipped`).

    Raises:
        DataError: No file matches, or (from `documents`) a line is bad; it names the file and 1-based line.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        text_key: str = "text",
        *,
        on_error: str = "raise",
    ):
        self.path = path
        self.text_key = text_key
        self.on_error = check_choice("on_error", on_error, ("raise", "skip"))
        self.files = matching_files(path)
        self.skipped = 0

    def documents(self) -> Iterator[str]:
        """Yield the text of each line."""
        self.skipped = 0
        for file in self.files:
            for number, line in enumerate(_lines(file), start=1):
                if not line.strip():
                    continue
                try:
                    yield self._text(line)
                except ValueError as error:
                    if self.on_error == "raise":
                        raise DataError(f"{file}:{number}: {error}; or set on_error='skip'") from error
                    self.skipped += 1

    def describe(self) -> str:
        """Return the path, how many files it matches, and the key."""
        return f"JSON lines {self.path} ({len(self.files)} files), key {self.text_key!r}"

    def fingerprint(self) -> str:
        """Return a digest of the files' contents and the settings."""
        return settings_digest(
            type="jsonl",
            content=content_digest(self.files),
            gzipped=[file.suffix == ".gz" for file in self.files],
            text_key=self.text_key,
            on_error=self.on_error,
        )

    def _text(self, line: bytes) -> str:
        try:
            record = json.loads(line.strip().decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise ValueError(
                f"byte {error.start} of the line is not UTF-8; save the file as UTF-8"
            ) from error
        except json.JSONDecodeError as error:
            raise ValueError(f"not valid JSON ({error.msg}, column {error.colno}); mend the line") from error
        if not isinstance(record, dict):
            raise ValueError(f"a line must hold a JSON object, not {type(record).__name__}")
        if self.text_key not in record:
            keys = ", ".join(map(repr, record))
            raise ValueError(f"no key {self.text_key!r}; the keys are {keys or 'none'}; set text_key")
        text = record[self.text_key]
        if not isinstance(text, str):
            raise ValueError(f"{self.text_key!r} must be a string, not {type(text).__name__}; set text_key")
        if not _is_unicode(text):
            raise ValueError(f"{self.text_key!r} holds half of a surrogate pair; write the whole character")
        return text


def _is_unicode(text: str) -> bool:
    """JSON may escape half of a surrogate pair, which no UTF-8 text and no tokenizer can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lines(file: Path) -> Iterator[bytes]:
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
            yield from stream
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(file, error) from error
