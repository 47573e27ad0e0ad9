"""Plain text files, one document a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tfllm.data.errors import DataError
from tfllm.data.sources.file_kind import HEAD_BYTES
from tfllm.data.sources.file_source import FileSource
from tfllm.data.sources.files import (
    NotText,
    check_is_text,
    is_gzip,
    opened,
)
from tfllm.data.sources.source import TextSource, settings_digest

_BINARY = 100  # characters: one NUL in so many or fewer is no accident any more


class TextFilesSource(FileSource, TextSource):
    r"""Text files, plain or gzip, one document a file in the order of their paths.

    Each file is read whole. Files and pieces without any text but white space are left out. What a file is, its
    first bytes say, not its name.

    Args:
        path: A path or glob, or a list of them; `**` matches any depth.
        encoding: The files' encoding.
        on_error: What to do with a file that is not valid in `encoding`: "raise", "skip" it (counted in
            `skipped`), or "replace" the bad bytes with U+FFFD.
        split_on: Text that separates documents inside a file, e.g. `"\n\n\n"` or `"<|endoftext|>"`.
        section: What messages call the settings: the section of the config.

    Attributes:
        skipped: Files passed over by the last reading.
        notices: What it found strange.

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
        section: str = "data.train",
    ):
        try:
            "".encode(encoding)
        except (LookupError, ValueError) as error:
            raise DataError(
                f"{section}.encoding={encoding!r} is not an encoding of text; write for example utf-8"
            ) from error
        if split_on == "":
            raise DataError(
                f"{section}.split_on='' would cut between all characters; leave it out to keep files whole"
            )
        super().__init__(path, section=section, on_error=on_error, choices=("raise", "skip", "replace"))
        self.encoding = encoding
        self.split_on = split_on

    def documents(self) -> Iterator[str]:
        """Yield each file's text, or its pieces between `split_on`."""
        self._begin()
        cut = read = with_returns = 0
        for file in self.files:
            text = self._text(file)
            pieces = text.split(self.split_on) if self.split_on is not None else [text]
            read += bool(text)
            cut += len(pieces) > 1
            with_returns += "\r" in text[:10_000]
            yield from (piece for piece in pieces if piece and not piece.isspace())
        if self.split_on is not None and read and not cut:
            self.notices.append(self._never_cut(read, bool(with_returns)))

    def describe(self) -> str:
        """Return the path and how many files it matches."""
        return f"text files {self.path} ({len(self.files)} files)"

    def fingerprint(self) -> str:
        """Return a digest of the files' contents and the settings."""
        return settings_digest(
            type="text",
            content=self._content,
            gzipped=[is_gzip(file) for file in self.files],
            encoding=self.encoding,
            on_error=self.on_error,
            split_on=self.split_on,
        )

    def _text(self, file: Path) -> str:
        try:
            return self._decode(file)
        except NotText as error:
            if self.on_error != "skip":
                mend = f"or write {self.section}.on_error: skip to pass over such files"
                raise NotText(f"{error}, {mend}") from error
            self._skip(str(error))
            return ""

    def _decode(self, file: Path) -> str:
        with opened(file) as stream:
            data = stream.read()
        encoding_key = f"{self.section}.encoding"
        check_is_text(file, data[:HEAD_BYTES], encoding=self.encoding, encoding_key=encoding_key)
        try:
            text = data.decode(self.encoding, "replace" if self.on_error == "replace" else "strict")
        except UnicodeDecodeError as error:
            if self.on_error == "skip":
                self._skip(f"{file}: byte {error.start} is not valid {self.encoding}")
                return ""
            cut = (
                " (is the file cut short?)" if error.end == len(data) and len(data) - error.start < 4 else ""
            )
            raise DataError(
                f"{file}: byte {error.start} is not valid {self.encoding} ({error.reason}){cut}; save the file as "
                f"{self.encoding}, write its encoding as {encoding_key}, or write {self.section}.on_error: skip "
                "(or replace)"
            ) from error
        self._check_nulls(file, text)
        return text.removeprefix("\ufeff")  # a byte order mark is not text

    def _check_nulls(self, file: Path, text: str) -> None:
        nulls = text.count("\0")
        if nulls * _BINARY >= len(text) > 0:
            raise NotText(
                f"{file}: {nulls} of its {len(text)} characters in {self.encoding} are NUL, so it is binary, or text "
                f"in another encoding; write for example {self.section}.encoding: utf-16-le"
            )
        if nulls:
            place = text.index("\0")
            self.notices.append(f"{file} holds {nulls} NUL characters, the first at character {place}")

    def _never_cut(self, read: int, with_returns: bool) -> str:
        assert self.split_on is not None
        files = "the file" if read == 1 else f"any of the {read} files"
        words = f"{self.section}.split_on={self.split_on!r} is not in {files}, so each is one document"
        if "\\" in self.split_on:
            return f'{words}; YAML reads \\n as a new line inside double quotes only: split_on: "\\n\\n"'
        if with_returns and "\n" in self.split_on and "\r" not in self.split_on:
            return f'{words}; their lines end with \\r\\n: write split_on: "\\r\\n\\r\\n"'
        return words
