"""What stands before the weights in a GGUF file: keys with values, and where which tensor lies.

The format is that of ggml's `docs/gguf.md`: a magic word, a version, two counts, the keys, the tensors, and then,
aligned, the data. It is read once and from front to back. Whatever a file says of its own sizes is checked against
the file before anything is made of that size.
"""

from __future__ import annotations

import dataclasses
import math
import os
import struct
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from tfllm.convert.errors import ConvertError

# Value types by their numbers; 8 is text and 9 a list.
_NUMBERS = {
    **{0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1"},
    **{10: "<u8", 11: "<i8", 12: "<f8"},
}
_BOOL, _TEXT, _LIST = 7, 8, 9
# Bounds of what is believed; the largest published vocabularies have 262,144 tokens and as many merges twice over.
_MOST_BYTES = 1 << 27
_MOST_KEYS = 1 << 16
_MOST_TENSORS = 1 << 20
_MOST_ENTRIES = 1 << 22
_MOST_DIMENSIONS = 4  # ggml's own
_PIECE = 1 << 20
_LONGEST_REASON = 500  # names in it are the file's
_ALIGNMENT = "general.alignment"


@dataclasses.dataclass(frozen=True)
class TensorPlace:
    """Where the numbers of a tensor lie.

    Args:
        path: The file.
        offset: Of its first byte in the file.
        size: In bytes.
        shape: Of the numbers, the last axis the fastest.
        type: As GGUF names it.
    """

    path: Path
    offset: int
    size: int
    shape: tuple[int, ...]
    type: str


class GgufHeader:
    """The keys and tensors of one GGUF file.

    Args:
        path: The file.

    Raises:
        ConvertError: when it is not a GGUF file, or damaged.

    Attributes:
        metadata: Every key to its value, but for lists.
        lists: The keys of lists, each to a list of texts or an array of numbers.
        tensors: Name to place.
    """

    def __init__(self, path: Path):
        self.metadata: dict[str, Any] = {}
        self.lists: dict[str, list[str] | np.ndarray] = {}
        self.tensors: dict[str, TensorPlace] = {}
        if not path.is_file():
            raise ConvertError(f"{path} does not exist; give the path of a .gguf file")
        try:
            with _Beginning(path) as beginning:
                self._read(beginning)
        except OSError as error:
            raise ConvertError(f"{path} cannot be read ({error.strerror or error})") from None

    def _read(self, file: _Beginning) -> None:
        if file.take(4) != b"GGUF":
            file.fail("it does not begin with GGUF")
        version = file.number("<u4")
        if version in (2 << 24, 3 << 24):
            raise ConvertError(
                f"{file.path} is written for big-endian machines; turn it with llama.cpp's gguf_convert_endian.py"
            )
        if version not in (2, 3):
            raise ConvertError(
                f"{file.path} is of version {version} of GGUF; 2 and 3 are read, so convert it anew"
            )
        tensors, keys = file.number("<u8"), file.number("<u8")
        file.check_count(tensors, 24, _MOST_TENSORS, "tensors")
        file.check_count(keys, 13, _MOST_KEYS, "keys")
        for _ in range(keys):
            self._read_key(file)
        self._read_tensors(file, tensors)

    def _read_key(self, file: _Beginning) -> None:
        key = file.text("a key")
        if key in self.metadata or key in self.lists:
            file.fail(f"it has the key {key!r} twice")
        kind = file.number("<u4")
        if kind == _LIST:
            self.lists[key] = self._list(file, key)
        elif kind == _TEXT:
            self.metadata[key] = file.text(key)
        elif kind in _NUMBERS:
            self.metadata[key] = _plain(_numbers(file, key, kind, 1)[0].item(), kind)
        else:
            file.fail(f"{key!r} is of type {kind}, which is not known")

    def _list(self, file: _Beginning, key: str) -> list[str] | np.ndarray:
        kind, count = file.number("<u4"), file.number("<u8")
        if kind == _LIST:
            file.fail(f"{key!r} is a list of lists")
        if kind != _TEXT and kind not in _NUMBERS:
            file.fail(f"{key!r} is a list of type {kind}, which is not known")
        smallest = 8 if kind == _TEXT else np.dtype(_NUMBERS[kind]).itemsize
        file.check_count(count, smallest, _MOST_ENTRIES, f"entries of {key!r}")
        return file.texts(count, key) if kind == _TEXT else _numbers(file, key, kind, count)

    def _read_tensors(self, file: _Beginning, count: int) -> None:
        infos = [_tensor_info(file) for _ in range(count)]
        alignment = self.metadata.get(_ALIGNMENT, 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            file.fail(f"{_ALIGNMENT}={alignment!r} is not a power of two")
        begin = -(-file.at // alignment) * alignment
        for name, shape, kind, offset in infos:
            place = _place(file, name, shape, kind, begin + offset)
            if name in self.tensors:
                file.fail(f"it has the tensor {name!r} twice")
            if offset % alignment:
                file.fail(f"{name!r} lies at {offset}, which is not a multiple of {alignment}")
            self.tensors[name] = place
        end, before = begin, ""
        for name, place in sorted(self.tensors.items(), key=lambda item: (item[1].offset, item[1].size)):
            if place.offset < end:
                file.fail(f"{name!r} lies on top of {before!r}")
            end, before = place.offset + place.size, name


class _Beginning:
    """The beginning of a file, read in pieces as it is asked for."""

    def __init__(self, path: Path):
        self.path, self.at = path, 0
        self._file = path.open("rb")
        self.size = os.fstat(self._file.fileno()).st_size
        self._data = b""

    def __enter__(self) -> _Beginning:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def fail(self, reason: str) -> NoReturn:
        """Raises the error of a damaged file."""
        short = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}…"
        raise ConvertError(f"{self.path} is not a whole GGUF file ({short}); download it again")

    def take(self, count: int) -> bytes:
        """The next bytes."""
        end = self.at + count
        if end > len(self._data):
            self._read_to(end)
        taken = self._data[self.at : end]
        self.at = end
        return taken

    def number(self, kind: str) -> int:
        """The next whole number."""
        return int.from_bytes(self.take(int(kind[2:])), "little")

    def text(self, what: str) -> str:
        """The next text, a length and so many bytes."""
        return self.texts(1, what)[0]

    def texts(self, count: int, what: str) -> list[str]:
        """The next texts; one loop without calls, as a vocabulary has hundreds of thousands."""
        found, data, at, length = [], self._data, self.at, struct.Struct("<Q").unpack_from
        for index in range(count):
            if at + 8 > len(data):
                data = self._read_to(at + 8)
            begin = at + 8
            at = begin + length(data, at)[0]
            if at > len(data):
                data = self._read_to(at)
            try:
                found.append(data[begin:at].decode())
            except UnicodeDecodeError as error:
                self.fail(f"{what!r}, text {index}, is not UTF-8: {error.reason}")
        self.at = at
        return found

    def check_count(self, count: int, smallest: int, most: int, what: str) -> None:
        """Refuses a number of things that the rest of the file cannot hold, or that nobody writes."""
        if count * smallest > self.size - self.at:
            self.fail(f"it says {count} {what}, more than its {self.size} bytes hold")
        if count > most:
            self.fail(f"it says {count} {what}; at most {most} are read")

    def _read_to(self, end: int) -> bytes:
        if end > self.size:
            self.fail(f"it ends after {self.size} bytes, where {end} are needed")
        if end > _MOST_BYTES:
            self.fail(f"{end} bytes stand before its weights; at most {_MOST_BYTES} are read")
        self._data += self._file.read(max(end - len(self._data), len(self._data), _PIECE))
        if end > len(self._data):
            self.fail(f"it ends after {len(self._data)} bytes, where {end} are needed")
        return self._data


def _numbers(file: _Beginning, key: str, kind: int, count: int) -> np.ndarray:
    dtype = np.dtype(_NUMBERS[kind])
    array = np.frombuffer(file.take(count * dtype.itemsize), dtype)
    if kind != _BOOL:
        return array
    if np.any(array > 1):
        file.fail(f"{key!r} holds {array.max()}, which is neither true nor false")
    return array.astype(bool)


def _plain(value: Any, kind: int) -> Any:
    """Floats are mostly float32 there; `1e-5`, not what is nearest to it in binary."""
    return float(str(np.float32(value))) if kind == 6 else value


def _tensor_info(file: _Beginning) -> tuple[str, tuple[int, ...], int, int]:
    name = file.text("a tensor's name")
    dimensions = file.number("<u4")
    if dimensions > _MOST_DIMENSIONS:
        file.fail(f"{name!r} has {dimensions} dimensions; at most {_MOST_DIMENSIONS} are possible")
    shape = tuple(reversed([file.number("<u8") for _ in range(dimensions)]))
    return name, shape, file.number("<u4"), file.number("<u8")


def _place(file: _Beginning, name: str, shape: tuple[int, ...], kind: int, offset: int) -> TensorPlace:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        known = GGMLQuantizationType(kind)
    except ValueError:
        raise ConvertError(
            f"{file.path}: {name[:200]} is of type {kind}, which the gguf package does not know; take a file with"
            " another quantization"
        ) from None
    block, width = GGML_QUANT_SIZES[known]
    row, entries = shape[-1] if shape else 1, math.prod(shape)
    if row % block:
        file.fail(f"{name!r} has rows of {row}, which do not divide into blocks of {block}")
    size = entries // block * width
    if offset + size > file.size:
        file.fail(f"{name!r} of {size} bytes lies at {offset}, behind the end of its {file.size} bytes")
    return TensorPlace(file.path, offset, size, shape, known.name)
