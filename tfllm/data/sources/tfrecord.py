"""TFRecord files of `tf.train.Example` with a text feature."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tfllm.data.errors import DataError, check_choice
from tfllm.data.sources.files import content_digest, matching_files
from tfllm.data.sources.source import settings_digest


class TfRecordSource:
    """TFRecord files of `tf.train.Example`, one document an example.

    TensorFlow is imported on the first use, not with the module.

    Args:
        path: A path or glob, or a list of them; `**` matches any depth.
        text_key: A bytes feature of one value: the text in UTF-8.
        compression: "GZIP", "ZLIB" or "" (none); `None` takes GZIP for names ending in `.gz`.

    Raises:
        DataError: No file matches, or (from `documents`) a file is truncated or damaged, or a record lacks
            the feature; it names the file and the 1-based record.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        text_key: str = "text",
        compression: str | None = None,
    ):
        if compression is not None:
            check_choice("compression", compression, ("GZIP", "ZLIB", ""))
        self.path = path
        self.text_key = text_key
        self.compression = compression
        self.files = matching_files(path)

    def documents(self) -> Iterator[str]:
        """Yield the text of each record."""
        for file in self.files:
            for number, record in enumerate(self._records(file), start=1):
                yield self._text(record, f"{file}: record {number}")

    def describe(self) -> str:
        """Return the path, how many files it matches, and the key."""
        return f"TFRecord {self.path} ({len(self.files)} files), key {self.text_key!r}"

    def fingerprint(self) -> str:
        """Return a digest of the files' contents and the settings."""
        return settings_digest(
            type="tfrecord",
            content=content_digest(self.files),
            compression=[self._compression_of(file) for file in self.files],
            text_key=self.text_key,
        )

    def _compression_of(self, file: Path) -> str:
        if self.compression is None:
            return "GZIP" if file.suffix == ".gz" else ""
        return self.compression

    def _records(self, file: Path) -> Iterator[bytes]:
        import tensorflow as tf

        dataset = tf.data.TFRecordDataset(str(file), compression_type=self._compression_of(file))
        try:
            yield from dataset.as_numpy_iterator()
        except tf.errors.DataLossError as error:
            reason = error.message.split("[[")[0].strip()
            raise DataError(
                f"{file}: truncated or damaged TFRecord ({reason}); write it again, or set compression to "
                "how it was written"
            ) from error

    def _text(self, record: bytes, place: str) -> str:
        import tensorflow as tf
        from google.protobuf.message import DecodeError

        try:
            features = tf.train.Example.FromString(record).features.feature
        except DecodeError as error:
            raise DataError(f"{place} is not a tf.train.Example; write it as one") from error
        if self.text_key not in features:
            keys = ", ".join(map(repr, sorted(features)))
            raise DataError(
                f"{place} has no feature {self.text_key!r}; it has {keys or 'none'}; set text_key"
            )
        values = features[self.text_key].bytes_list.value
        if len(values) != 1:
            raise DataError(
                f"{place}: {self.text_key!r} must hold one bytes value, not {len(values)}; set text_key"
            )
        try:
            return values[0].decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: {self.text_key!r} is not UTF-8; write it as UTF-8") from error
