"""Tables of delimited text: a header, then one record a line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from tfllm.data.errors import DataError
from tfllm.data.record import Record
from tfllm.data.sources.file_kind import HEAD_BYTES
from tfllm.data.sources.file_source import FileSource
from tfllm.data.sources.files import (
    NotText,
    check_is_text,
    is_gzip,
    opened,
)
from tfllm.data.sources.source import settings_digest

_DELIMITERS = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a bar"}
_LONGEST_FIELD = 1 << 27  # characters; Python's own limit of 131,072 is less than many a document


class CsvSource(FileSource):
    """CSV and TSV files in UTF-8, plain or gzip, each with the names of its columns in the first line.

    Fields are quoted as RFC 4180 has it: `"` around a field that holds delimiters or line ends, and inside it `""` for
    a quote.

    Args:
        path: A path or glob, or a list of them.
        columns: What this column of the files is called here: `{text: review}` takes `review` as `text`. Other columns
            keep their names. `None` renames none.
        delimiter: One character between fields; `None` is a tab in files called .tsv or .tab, else a comma.
        on_error: "raise", or "skip" a line with too few or too many fields, or broken, and a file that is no text
            (counted in `skipped`).
        section: What messages call the settings: the section of the config.

    Attributes:
        skipped: Lines and files passed over by the last reading.
        notices: What it found strange.

    Raises:
        DataError: No file matches, or (from `records`) a file or line is bad; it names the file and 1-based line.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        *,
        columns: Mapping[str, str] | None = None,
        delimiter: str | None = None,
        on_error: str = "raise",
        section: str = "data.train",
    ):
        super().__init__(path, section=section, on_error=on_error)
        self.columns = dict(columns or {})
        self.delimiter = delimiter

    def records(self) -> Iterator[Record]:
        """Yield a record a line; every field is a text."""
        return self._of_each(self._records)

    def describe(self) -> str:
        """Return the path and how many files it matches."""
        return f"CSV {self.path} ({len(self.files)} files)"

    def fingerprint(self) -> str:
        """Return a digest of the files' contents and the settings."""
        return settings_digest(
            type="csv",
            content=self._content,
            gzipped=[is_gzip(file) for file in self.files],
            delimiters=[self._delimiter_of(file) for file in self.files],
            columns=self.columns,
            on_error=self.on_error,
        )

    def _records(self, file: Path) -> Iterator[Record]:
        delimiter = self._delimiter_of(file)
        with opened(file) as stream:
            check_is_text(file, stream.peek(HEAD_BYTES)[:HEAD_BYTES])
            text = io.TextIOWrapper(cast(io.BytesIO, stream), encoding="utf-8-sig", newline="")
            before = csv.field_size_limit(_LONGEST_FIELD)
            try:
                rows = _rows(csv.reader(text, delimiter=delimiter, strict=True))
                header = self._header(file, next(rows, (1, []))[1], delimiter)
                yield from self._below(file, header, self._ours(file, header), rows)
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                raise NotText(
                    f"{file}: holds the byte {byte:#04x}, which is not UTF-8; save it as UTF-8"
                ) from error
            finally:
                csv.field_size_limit(before)

    def _below(
        self,
        file: Path,
        header: Sequence[str],
        ours: Sequence[str],
        rows: Iterator[tuple[int, list[str] | str]],
    ) -> Iterator[Record]:
        """Yield the records under a header."""
        for line, fields in rows:
            place = f"{file}:{line}"
            if isinstance(fields, str):
                self._broken(f"{place}: {fields}")
            elif len(fields) != len(header):
                self._broken(f"{place}: {_miscounted(fields, header)}")
            else:
                yield Record(dict(zip(ours, fields, strict=True)), place, f"{self.section}.columns")

    def _ours(self, file: Path, header: Sequence[str]) -> list[str]:
        """What the columns are called here. One that keeps its name is hidden by another that is given that name."""
        for ours, theirs in self.columns.items():
            if theirs not in header:
                key, there = f"{self.section}.columns.{ours}", ", ".join(map(repr, header[:20]))
                raise DataError(f"{file}:1: no column {theirs!r}, which {key} names; the columns are {there}")
        given = {theirs: ours for ours, theirs in self.columns.items()}
        hidden = {name: f"{name} of the file" for name in self.columns if name not in given}
        return [given.get(name, hidden.get(name, name)) for name in header]

    def _header(self, file: Path, names: list[str] | str, delimiter: str) -> list[str]:
        if isinstance(names, str):
            raise DataError(f"{file}:1: {names}")
        names = [name.strip() for name in names]
        if not any(names):
            raise DataError(
                f"{file}: has no first line with the names of its columns; write one, e.g. text,label"
            )
        if len(names) == 1:
            likely = [mark for mark in _DELIMITERS if mark != delimiter and mark in names[0]]
            if likely:
                raise DataError(
                    f"{file}: its first line has one column, {names[0]!r}, where {_name(delimiter)} is between columns;"
                    f" it looks like {_name(likely[0])}: write {self.section}.delimiter: {likely[0]!r}"
                )
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataError(
                f"{file}: has the column {twice[0]!r} twice; rename one of them in its first line"
            )
        return names

    def _delimiter_of(self, file: Path) -> str:
        if self.delimiter is not None:
            return self.delimiter
        name = file.name.lower().removesuffix(".gz")
        return "\t" if name.endswith((".tsv", ".tab")) else ","


def _rows(reader: Any) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the line where each record begins, and its fields or what is wrong with it; not of empty lines."""
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, _words(str(error))
            continue
        if fields:
            yield line, fields


def _words(error: str) -> str:
    if "unexpected end of data" in error:
        return 'a quote " is opened and never closed; close it, or write "" for a quote inside a field'
    if "expected after" in error:
        return 'a closing quote " is followed by other text; write "" for a quote inside a field'
    if "field larger" in error:
        return f"a field has more than {_LONGEST_FIELD:,} characters; perhaps a quote is not closed before it"
    return f"is no CSV ({error}); mend the line"


def _miscounted(fields: Sequence[str], header: Sequence[str]) -> str:
    return (
        f"has {len(fields)} fields, and the first line names {len(header)} columns ({', '.join(header[:10])}); put"
        ' quotes "…" around a field that holds the delimiter'
    )


def _name(delimiter: str) -> str:
    return _DELIMITERS.get(delimiter, repr(delimiter))
