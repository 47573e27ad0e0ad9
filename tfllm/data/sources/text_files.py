"""Plain text files, one document a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tfllm.data.errors import DataError, check_choice
from tfllm.data.sources.files import content_digest, matching_files, read_bytes
from tfllm.data.sources.source import settings_digest


class TextFilesSource:
    r"""Text files, plain or `.gz`, one document a file in the order of their paths.

    Each file is read whole. Files and pieces without any text but white space are left out.

    Args:
        path: A path or glob, or a list of them; `**` matches any depth.
        encoding: The files' encoding.
        on_error: What to do with a file that is not valid in `encoding`: "raise", "skip" it (counted in
            `skipped`), or "replace" the bad bytes with U+FFFD.
        split_on: Text that separates documents inside a file, e.g. `"\n\n\n"` or `"<|endoftext|>"`.

    Raises:
        DataError: No file matches, or (from `documents`) a file cannot be read or decoded.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        encoding: str = "utf-8",
        *,
        on_error: str = "raise",
        split_on: str | None = None,
    ):
        try:
            "".encode(encoding)
        except LookupError as error:
            raise DataError(f"encoding={encoding!r} is not known to Python; try 'utf-8'") from error
        if split_on == "":
            raise DataError("split_on='' would cut between all characters; leave it out to keep files whole")
        self.path = path
        self.encoding = encoding
        self.on_error = check_choice("on_error", on_error, ("raise", "skip", "replace"))
        self.split_on = split_on
        self.files = matching_files(path)
        self.skipped = 0

    def documents(self) -> Iterator[str]:
        """Yield each file's text, or its pieces between `split_on`."""
        self.skipped = 0
        for file in self.files:
            text = self._decode(file)
            pieces = text.split(self.split_on) if self.split_on is not None else [text]
            yield from (piece for piece in pieces if piece and not piece.isspace())

    def describe(self) -> str:
        """Return the path and how many files it matches."""
        return f"text files {self.path} ({len(self.files)} files)"

    def fingerprint(self) -> str:
        """Return a digest of the files' contents and the settings."""
        return settings_digest(
            type="text",
            content=content_digest(self.files),
            gzipped=[file.suffix == ".gz" for file in self.files],
            encoding=self.encoding,
            on_error=self.on_error,
            split_on=self.split_on,
        )

    def _decode(self, file: Path) -> str:
        errors = "replace" if self.on_error == "replace" else "strict"
        try:
            text = read_bytes(file).decode(self.encoding, errors)
        except UnicodeDecodeError as error:
            if self.on_error == "skip":
                self.skipped += 1
                return ""
            raise DataError(
                f"{file}: byte {error.start} is not valid {self.encoding} ({error.reason}); save the file as "
                f"{self.encoding}, name its encoding, or set on_error to 'skip' or 'replace'"
            ) from error
        return text.removeprefix("\ufeff")  # a byte order mark is not text
