"""TFRecord files of `tf.train.Example` with a text feature."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tfllm.data.errors import DataError, check_choice
from tfllm.data.sources.file_kind import GZIP, is_tfrecord, is_zlib, kind_of
from tfllm.data.sources.file_source import FileSource
from tfllm.data.sources.files import head_of, opened
from tfllm.data.sources.source import TextSource, settings_digest

_OVERHEAD = (
    16  # bytes around a record: its length (8), and checksums of the length and of the record (4 each)
)


class TfRecordSource(FileSource, TextSource):
    """TFRecord files of `tf.train.Example`, one document an example.

    TensorFlow is imported on the first use, not with the module.

    Args:
        path: A path or glob, or a list of them; `**` matches any depth.
        text_key: A bytes feature of one value: the text in UTF-8.
        compression: "GZIP", "ZLIB" or "" (none), for files whose first bytes do not say it.
        section: What messages call the settings: the section of the config.

    Raises:
        DataError: No file matches, or (from `documents`) a file is truncated or damaged, or a record lacks
            the feature; it names the file and the 1-based record.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        text_key: str = "text",
        compression: str | None = None,
        *,
        section: str = "data.train",
    ):
        if compression is not None:
            check_choice("compression", compression, ("GZIP", "ZLIB", ""))
        super().__init__(path, section=section)
        self.text_key = text_key
        self.compression = compression

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
            content=self._content,
            compression=[self._compression_of(file) for file in self.files],
            text_key=self.text_key,
        )

    def _compression_of(self, file: Path) -> str:
        """What the first bytes say; the setting decides where they say nothing."""
        head = head_of(file)
        if not head or is_tfrecord(head):
            return ""
        if head.startswith(GZIP):
            return "GZIP"
        if is_zlib(head):
            return "ZLIB"
        return self.compression or ""

    def _records(self, file: Path) -> Iterator[bytes]:
        import tensorflow as tf

        compression = self._compression_of(file)
        kind = kind_of(head_of(file))
        if kind is not None and not compression and not is_tfrecord(head_of(file)):
            raise DataError(f"{file}: is no TFRecord file but {kind.name}; {kind.mend}")
        dataset = tf.data.TFRecordDataset(os.fsencode(file), compression_type=compression)
        read = 0
        try:
            for record in dataset.as_numpy_iterator():
                read += len(record) + _OVERHEAD
                yield record
        except tf.errors.OpError as error:
            reason = error.message.split("[[")[0].split(" [Op:")[0].strip()
            raise DataError(f"{file}: truncated or damaged TFRecord ({reason}); write it again") from error
        # TensorFlow takes less than a head, and a compressed stream without its end, for the end of the file.
        size = _size(file, compression)
        if size != read:
            raise DataError(
                f"{file}: truncated or damaged TFRecord (it ends in the middle of a record, {size - read} bytes "
                "behind the last whole one); write it again"
            )

    def _text(self, record: bytes, place: str) -> str:
        import tensorflow as tf
        from google.protobuf.message import DecodeError

        try:
            features = tf.train.Example.FromString(record).features.feature
        except DecodeError as error:
            raise DataError(f"{place} is not a tf.train.Example; write it as one") from error
        key = f"{self.section}.text_key"
        if self.text_key not in features:
            keys = ", ".join(map(repr, sorted(features)[:20]))
            raise DataError(f"{place} has no feature {self.text_key!r}; it has {keys or 'none'}; set {key}")
        kind = features[self.text_key].WhichOneof("kind")
        if kind not in (None, "bytes_list"):
            words = f"holds {kind.removesuffix('_list')} values, not bytes"
            raise DataError(f"{place}: {self.text_key!r} {words}; set {key}")
        values = features[self.text_key].bytes_list.value
        if len(values) != 1:
            raise DataError(
                f"{place}: {self.text_key!r} must hold one bytes value, not {len(values)}; set {key}"
            )
        try:
            return values[0].decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: {self.text_key!r} is not UTF-8; write it as UTF-8") from error


def _size(file: Path, compression: str) -> int:
    """Bytes of the records, decompressed; DataError where the compressed stream has no end."""
    if not compression:
        return file.stat().st_size
    size = 0
    with opened(file) as stream:  # which undoes gzip
        unpack = zlib.decompressobj() if compression == "ZLIB" else None
        while block := stream.read(1 << 20):
            size += len(unpack.decompress(block) if unpack else block)
    if unpack is not None and not unpack.eof:
        raise DataError(
            f"{file}: truncated or damaged TFRecord (its zlib stream is cut short); write it again"
        )
    return size
