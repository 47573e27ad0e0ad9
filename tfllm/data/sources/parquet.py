"""Parquet files: tables by column, as the Hugging Face hub and data warehouses keep them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tfllm.data.errors import DataError
from tfllm.data.record import Record, with_text
from tfllm.data.sources.file_source import FileSource
from tfllm.data.sources.source import settings_digest

_AT_ONCE = 1024  # rows in memory


class ParquetSource(FileSource):
    """Parquet files, read some rows at a time.

    Args:
        path: A path or glob, or a list of them.
        columns: What the files call a column, by its name here: `{text: review}`. Other columns keep their names.
        section: What messages call the settings: the section of the config.

    Raises:
        DataError: No file matches, or (from `records`) a file is no Parquet file, damaged, or lacks a column.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        *,
        columns: Mapping[str, str] | None = None,
        section: str = "data.train",
    ):
        super().__init__(path, section=section)
        self.columns = dict(columns or {})

    def records(self) -> Iterator[Record]:
        """Yield a record a row, with values of any kind."""
        return self._of_each(self._records)

    def describe(self) -> str:
        """Return the path and how many files it matches."""
        return f"Parquet {self.path} ({len(self.files)} files)"

    def fingerprint(self) -> str:
        """Return a digest of the files' contents and the settings."""
        return settings_digest(type="parquet", content=self._content, columns=self.columns)

    def _records(self, file: Path) -> Iterator[Record]:
        import pyarrow
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(file) as table:
                names = self._names(file, table.schema_arrow.names)
                number = 0
                for batch in table.iter_batches(batch_size=_AT_ONCE):
                    for row in batch.to_pylist():
                        number += 1
                        fields = {names.get(name, name): value for name, value in row.items()}
                        yield Record(with_text(fields), f"{file}: row {number}", f"{self.section}.columns")
        except (pyarrow.ArrowException, OSError) as error:
            words = str(error).splitlines()[0]
            raise DataError(
                f"{file}: cannot be read as Parquet ({words}); write it again, or name another type of source"
            ) from error

    def _names(self, file: Path, there: Sequence[str]) -> dict[str, str]:
        """What columns are called here that are called otherwise. One that keeps its name is hidden by another that is
        given that name."""
        for ours, theirs in self.columns.items():
            if theirs not in there:
                key, names = f"{self.section}.columns.{ours}", ", ".join(map(repr, there[:20]))
                raise DataError(f"{file}: no column {theirs!r}, which {key} names; the columns are {names}")
        given = {theirs: ours for ours, theirs in self.columns.items()}
        hidden = {name: f"{name} of the file" for name in self.columns if name in there and name not in given}
        return {**hidden, **given}
