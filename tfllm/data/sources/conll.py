"""Files of CoNLL: a word a line and what is said of it, a blank line behind each sentence."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from tfllm.data.errors import DataError
from tfllm.data.record import Record, with_text
from tfllm.data.sources.file_kind import HEAD_BYTES
from tfllm.data.sources.file_source import FileSource
from tfllm.data.sources.files import NotText, check_is_text, is_gzip, opened
from tfllm.data.sources.source import settings_digest

_DOCUMENT = "-DOCSTART-"
_BLANKS = re.compile(r"[ \t]+")  # not those of Unicode, which words of some corpora hold
_CONLL_U_FIELDS = 10
_CONLL_U_OTHERS = re.compile(r"[0-9]+[-.][0-9]+")  # words that two lines below make up, and words left unsaid


class ConllSource(FileSource):
    """Files in UTF-8, plain or gzip, of which a record is a sentence: lists of what its lines hold.

    Fields stand between tabs where the first line of a word has one, and else between blanks; all words of a file have
    as many. Lines that begin with `-DOCSTART-` are passed over, and those that begin with `#` and are no word with as
    many fields as the others, as in CoNLL-U, of which words that the next lines make up are passed over too.

    Args:
        path: A path or glob, or a list of them.
        columns: The place of each column's field in a line, from 0, or from the end, -1.
        on_error: "raise", or "skip" a sentence with a line of too few or too many fields, and a file that is no text
            (counted in `skipped`).
        section: What messages call the settings: the section of the config.

    Attributes:
        skipped: Sentences and files passed over by the last reading.
        notices: What it found strange.

    Raises:
        DataError: No file matches, or (from `records`) a file or line is bad; it names the file and 1-based line.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        *,
        columns: Mapping[str, int],
        on_error: str = "raise",
        section: str = "data.train",
    ):
        super().__init__(path, section=section, on_error=on_error)
        self.columns = dict(columns)

    def records(self) -> Iterator[Record]:
        """Yield a record a sentence: its columns, and `text`, its words with blanks between them."""
        return self._of_each(self._records)

    def describe(self) -> str:
        """Return the path and how many files it matches."""
        return f"CoNLL {self.path} ({len(self.files)} files)"

    def fingerprint(self) -> str:
        """Return a digest of the files' contents and the settings."""
        return settings_digest(
            type="conll",
            content=self._content,
            gzipped=[is_gzip(file) for file in self.files],
            columns=self.columns,
            on_error=self.on_error,
        )

    def _records(self, file: Path) -> Iterator[Record]:
        with opened(file) as stream:
            check_is_text(file, stream.peek(HEAD_BYTES)[:HEAD_BYTES])
            text = io.TextIOWrapper(cast(io.BytesIO, stream), encoding="utf-8-sig", newline="\n")
            form: _Form | None = None
            try:
                for sentence in _sentences(text):
                    form = form or _form_of(line for _, line in sentence)
                    record = None if form is None else self._record(file, sentence, form)
                    if record is not None:
                        yield record
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                raise NotText(
                    f"{file}: holds the byte {byte:#04x}, which is not UTF-8; save it as UTF-8"
                ) from error

    def _record(self, file: Path, sentence: Sequence[tuple[int, str]], form: _Form) -> Record | None:
        rows: list[list[str]] = []
        first = 0
        for number, line in sentence:
            fields = form.fields(line)
            if fields is None:
                continue
            first = first or number
            if len(fields) != form.count:
                rule = f"has {len(fields)} fields, and the first word of the file has {form.count}"
                self._broken(
                    f"{file}:{number}: {line[:60]!r} {rule}; mend the line, or put a blank line behind the sentence"
                )
                return None
            rows.append(fields)
        if not rows:
            return None
        columns: dict[str, Any] = {}
        for name, place in self.columns.items():
            if not -form.count <= place < form.count:
                key, least, most = f"{self.section}.columns.{name}", -form.count, form.count - 1
                raise DataError(
                    f"{file}:{first}: {key}={place}, and a line has {form.count} fields; write {least} to {most}"
                )
            columns[name] = [fields[place] for fields in rows]
        return Record(with_text(columns), f"{file}:{first}", f"{self.section}.columns")


class _Form:
    """How the lines of a file are written, as its first word shows.

    Args:
        line: The line of that word.
    """

    def __init__(self, line: str):
        self.tabs = "\t" in line
        self.count = len(self._cut(line))

    def fields(self, line: str) -> list[str] | None:
        """The fields of a line; None where it is no word."""
        fields = self._cut(line)
        if line.startswith(_DOCUMENT) or (line.startswith("#") and len(fields) != self.count):
            return None
        if self.tabs and self.count == _CONLL_U_FIELDS and _CONLL_U_OTHERS.fullmatch(fields[0]):
            return None
        return fields

    def _cut(self, line: str) -> list[str]:
        return line.split("\t") if self.tabs else _BLANKS.split(line.strip(" \t"))


def _form_of(lines: Iterator[str]) -> _Form | None:
    """As the first line shows that is a word for sure; None where there is none."""
    sure = (line for line in lines if not line.startswith((_DOCUMENT, "# ")))
    line = next(sure, None)
    return None if line is None else _Form(line)


def _sentences(text: io.TextIOWrapper) -> Iterator[list[tuple[int, str]]]:
    """Yield what stands between blank lines: the number and content of each line."""
    sentence: list[tuple[int, str]] = []
    for number, line in enumerate(text, start=1):
        line = line.rstrip("\r\n")
        if line.strip(" \t"):
            sentence.append((number, line))
        elif sentence:
            yield sentence
            sentence = []
    if sentence:
        yield sentence
