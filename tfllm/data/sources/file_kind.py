"""What a file is by its first bytes, whatever its name says."""

from __future__ import annotations

import codecs
import dataclasses

HEAD_BYTES = 512
GZIP = b"\x1f\x8b\x08"
_UNPACK = "unpack it, and give the text files that are in it"
_CONVERT = "write its text as JSON lines, one object a line"
_MASK = 0xA282EAD8  # added to checksums in TFRecord files

# Of what is binary, and of PDF, RTF, and pickles. "PK" is also the start of .docx, .xlsx, .odt and .epub.
_KINDS = (
    (b"PK\x03\x04", "a ZIP archive or an office document", _UNPACK),
    (b"PK\x05\x06", "an empty ZIP archive", "give files with text"),
    (b"BZh", "bzip2-compressed", "decompress it (bunzip2), or compress it with gzip instead"),
    (b"\xfd7zXZ\x00", "xz-compressed", "decompress it (unxz), or compress it with gzip instead"),
    (b"\x28\xb5\x2f\xfd", "Zstandard-compressed", "decompress it (unzstd), or compress it with gzip instead"),
    (b"\x04\x22\x4d\x18", "LZ4-compressed", "decompress it (unlz4), or compress it with gzip instead"),
    (b"\x1f\x9d", "compressed by `compress`", "decompress it (uncompress), or compress it with gzip instead"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"PAR1", "a Parquet file", "write data.train.type: parquet"),
    (b"ARROW1\x00\x00", "an Arrow file", _CONVERT),
    (b"\xff\xff\xff\xff", "an Arrow stream, or binary", _CONVERT),
    (b"Obj\x01", "an Avro file", _CONVERT),
    (b"SQLite format 3\x00", "an SQLite database", _CONVERT),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", _CONVERT),
    (b"\x93NUMPY", "a NumPy array", _CONVERT),
    (b"%PDF-", "a PDF document", "take its text out of it (pdftotext)"),
    (b"{\\rtf", "an RTF document", "save it as plain text"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old office document", "save it as plain text"),
    (b"GGUF", "a GGUF checkpoint", "give files with text"),
    (b"\x7fELF", "a program", "give files with text"),
    (b"\x89PNG\r\n", "a PNG picture", "give files with text"),
    (b"\xff\xd8\xff", "a JPEG picture", "give files with text"),
    (b"GIF8", "a GIF picture", "give files with text"),
)
# The longer marks first: UTF-32's begins as UTF-16's does.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8"),
)


@dataclasses.dataclass(frozen=True)
class FileKind:
    """What a file is, if it is no text.

    Attributes:
        name: In words, with an article.
        mend: What to do about it.
    """

    name: str
    mend: str


def kind_of(head: bytes) -> FileKind | None:
    """Return what a file is that begins with these bytes (`HEAD_BYTES` of them, or all); None for text."""
    for magic, name, mend in _KINDS:
        if head.startswith(magic) and not _is_sentence(head):
            return FileKind(name, mend)
    if len(head) > 2 and head[0] == 0x80 and head[1] in (2, 3, 4, 5) and head[2:3] in b"c}](\x95":
        return FileKind("a pickle, which is a program and is not opened", _CONVERT)
    if head[257:262] == b"ustar":
        return FileKind("a tar archive", _UNPACK)
    if is_tfrecord(head):
        return FileKind("a TFRecord file", "write data.train.type: tfrecord")
    return None


def encoding_mark(head: bytes) -> str | None:
    """Return the encoding whose byte order mark a file begins with, or None."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def is_tfrecord(head: bytes) -> bool:
    """Return whether a file begins with the head of a TFRecord: a length, and the checksum of its bytes.

    Reference: tensorflow/core/lib/io/record_writer.h.
    """
    if len(head) < 12:
        return False
    checksum = _crc32c(head[:8])
    masked = ((checksum >> 15 | checksum << 17) + _MASK) & 0xFFFFFFFF
    return masked == int.from_bytes(head[8:12], "little")


def is_zlib(head: bytes) -> bool:
    """Return whether a file begins with the head of a zlib stream (RFC 1950)."""
    return len(head) > 1 and head[0] == 0x78 and int.from_bytes(head[:2], "big") % 31 == 0


def _is_sentence(head: bytes) -> bool:
    """Some marks are letters: "BZh" and "GIF8" may also begin a text, which holds printable bytes only."""
    if head.startswith((b"%PDF-", b"{\\rtf")):
        return False
    return all(byte >= 32 or byte in b"\t\n\r\f" for byte in head) and head.isascii()


def _crc32c(data: bytes) -> int:
    """Castagnoli's checksum; of eight bytes only, so that no table is needed."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF
