"""Two files of texts that belong together, line by line, as translations are kept."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from tfllm.data.errors import DataError
from tfllm.data.record import Record
from tfllm.data.sources.file_kind import HEAD_BYTES
from tfllm.data.sources.files import (
    NotText,
    check_is_text,
    content_digest,
    is_gzip,
    matching_files,
    opened,
)
from tfllm.data.sources.source import Source, settings_digest


class ParallelTextSource(Source):
    """Files in UTF-8, plain or gzip: a line of the one, `source`, belongs to the same line of the other, `target`.

    Args:
        source: A path or glob, or a list of them.
        target: The same; files pair up in the order of their names.
        section: What messages call the settings: the section of the config.

    Raises:
        DataError: No file matches, there are more of the one than of the other, or (from `records`) a file is bad, or
            has more lines than its partner.
    """

    def __init__(
        self,
        source: str | Path | Sequence[str | Path],
        target: str | Path | Sequence[str | Path],
        *,
        section: str = "data.train",
    ):
        self.section, self.paths = section, (source, target)
        sources, targets = (
            matching_files(path, key=f"{section}.{name}")
            for path, name in zip(self.paths, ("source", "target"), strict=True)
        )
        if len(sources) != len(targets):
            raise DataError(
                f"{section}.source matches {len(sources)} files and {section}.target {len(targets)}; name as many of"
                " each, in the same order"
            )
        self.pairs = list(zip(sources, targets, strict=True))
        self.files = [file for pair in self.pairs for file in pair]

    def records(self) -> Iterator[Record]:
        """Yield a record a line: `source` and `target`."""
        for pair in self.pairs:
            sides = [_lines(file) for file in pair]
            number = 0
            while True:
                line = [next(side, None) for side in sides]
                if line == [None, None]:
                    break
                if None in line:
                    raise DataError(self._unequal(pair, number, line))
                number += 1
                yield Record(dict(zip(("source", "target"), line, strict=True)), f"{pair[0]}:{number}")

    def describe(self) -> str:
        """Return the paths and how many pairs of files they match."""
        return f"parallel text {self.paths[0]} and {self.paths[1]} ({len(self.pairs)} pairs of files)"

    def fingerprint(self) -> str:
        """Return a digest of the files' contents."""
        return settings_digest(
            type="parallel_text",
            content=content_digest(self.files),
            gzipped=[is_gzip(file) for file in self.files],
        )

    @staticmethod
    def _unequal(pair: tuple[Path, Path], number: int, line: Sequence[str | None]) -> str:
        shorter, longer = pair if line[0] is None else pair[::-1]
        more = sum(1 for _ in _lines(longer))
        return (
            f"{shorter} has {number} lines and {longer} has {more}, so a line of the one is not that of the other; mend"
            " them, line by line"
        )


def _lines(file: Path) -> Iterator[str]:
    """Yield the lines of a file without their ends; those that other characters than line feeds end are one."""
    with opened(file) as stream:
        check_is_text(file, stream.peek(HEAD_BYTES)[:HEAD_BYTES])
        text = io.TextIOWrapper(cast(io.BytesIO, stream), encoding="utf-8-sig", newline="\n")
        try:
            for line in text:
                yield line.removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise NotText(
                f"{file}: holds the byte {byte:#04x}, which is not UTF-8; save it as UTF-8"
            ) from error
