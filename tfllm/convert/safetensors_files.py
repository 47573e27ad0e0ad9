"""Tensors of a folder of safetensors files, one or several, read one at a time."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from tfllm.convert.config_reader import shown
from tfllm.convert.errors import ConvertError
from tfllm.json_text import parse_json, read_json

ONE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_LONGEST_NAME, _MOST_FILES = 255, 4096
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth")
_TYPES: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}


class SafetensorsFiles:
    """The tensors of a checkpoint.

    Args:
        folder: Holds `model.safetensors`, or `model.safetensors.index.json` and the files it names.
        file: The name of the only file, where it is another.

    Raises:
        ConvertError: when there is no such file, one is missing, truncated or corrupt, or the index does not
            agree with the files.

    Attributes:
        shapes: Name to shape of every tensor.
        types: Name to type, as safetensors names it.
    """

    def __init__(self, folder: Path, file: str | None = None):
        self.folder = folder
        self._file_of: dict[str, Path] = {}
        self._offsets: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, str] = {}
        listed = _listed(folder) if file is None else None
        for path in sorted(set(listed.values())) if listed else [folder / (file or ONE_FILE)]:
            self._add(path)
        for name, path in (listed or {}).items():
            if self._file_of.get(name) != path:
                raise ConvertError(
                    f"{folder / INDEX_FILE} puts {name} into {path.name}, which does not hold it"
                )

    def read(self, name: str) -> np.ndarray:
        """One tensor, of the type it is stored in.

        Raises:
            ConvertError: when that type is not a float.
        """
        kind = self.types[name]
        if kind not in _TYPES:
            raise ConvertError(
                f"{self._file_of[name]}: {name} is of type {kind}; {', '.join(_TYPES)} are read, so save the"
                " checkpoint unquantized"
            )
        # Not through the library, whose memory map would stay beside the weights as long as the file is open.
        shape, path = self.shapes[name], self._file_of[name]
        with _corrupt(path):
            array = np.fromfile(path, _TYPES[kind], math.prod(shape), offset=self._offsets[name])
            return array.reshape(shape)

    def _add(self, path: Path) -> None:
        if not path.is_file():
            raise ConvertError(f"{path} is missing; download the whole checkpoint")
        with _corrupt(path):
            file = safetensors.safe_open(path, framework="numpy")  # checks every length and offset
            names = list(file.keys())
            del file
            begin, entries = _header(path)
        for name in names:
            if name in self._file_of:
                raise ConvertError(
                    f"{self.folder}: {name} stands in {self._file_of[name].name} and in {path.name}; keep one"
                )
            self._file_of[name] = path
            self._offsets[name] = begin + entries[name]["data_offsets"][0]
            self.shapes[name], self.types[name] = tuple(entries[name]["shape"]), entries[name]["dtype"]


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the data of a file begins, and its entries: a length of 8 bytes, and so much JSON."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return 8 + size, parse_json(file.read(size))


def _listed(folder: Path) -> dict[str, Path] | None:
    """Of several files, which holds which tensor; None where there is one file."""
    index = folder / INDEX_FILE
    if (folder / ONE_FILE).exists() or not index.exists():
        _refuse_pickles(folder)
        return None
    try:
        listed = read_json(index)["weight_map"]
        if not isinstance(listed, dict):
            raise TypeError("weight_map must be a mapping")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConvertError(f"{index} is not an index of safetensors files ({error})") from None
    for name, file in listed.items():
        named = isinstance(file, str) and len(file) < _LONGEST_NAME and file.endswith(".safetensors")
        if not named or file != Path(file).name or "\0" in file:
            raise ConvertError(
                f"{index}: {name[:200]} lies in {shown(file)}, which is not the name of a safetensors file beside it"
            )
    paths = {file: folder / file for file in sorted(set(listed.values()))[: _MOST_FILES + 1]}
    if len(paths) > _MOST_FILES:
        raise ConvertError(f"{index} names more than {_MOST_FILES} files; download it again")
    return {name: paths[file] for name, file in listed.items()}


def _refuse_pickles(folder: Path) -> None:
    if (folder / ONE_FILE).exists():
        return
    for name in _PICKLES:
        if (folder / name).exists():
            raise ConvertError(
                f"{folder / name} is a Python pickle, which runs code when it is read, and is not opened; where"
                " you trust it, transformers rewrites it:"
                ' AutoModelForCausalLM.from_pretrained("...").save_pretrained("...")'
            )
    raise ConvertError(f"{folder} holds neither {ONE_FILE} nor {INDEX_FILE}; give the folder of a checkpoint")


@contextlib.contextmanager
def _corrupt(path: Path) -> Iterator[None]:
    try:
        yield
    except (safetensors.SafetensorError, OSError, ValueError, OverflowError) as error:
        raise ConvertError(f"{path} is truncated or corrupt ({error}); download it again") from None


def write_safetensors(
    folder: Path, tensors: Iterator[tuple[str, np.ndarray]], *, shard_bytes: int = 2 * 10**9
) -> None:
    """Writes tensors into one file, or into several and an index.

    Args:
        folder: An existing folder.
        tensors: Names and arrays; one file's worth of them is in memory at a time.
        shard_bytes: Size from which the next file begins.
    """
    parts: list[tuple[Path, list[str]]] = []
    total, size = 0, 0
    held: dict[str, np.ndarray] = {}

    def flush() -> None:
        nonlocal size
        path = folder / f"part{len(parts)}.safetensors"
        _write_file(path, held)
        parts.append((path, list(held)))
        held.clear()
        size = 0

    for name, array in tensors:
        if held and size + array.nbytes > shard_bytes:
            flush()
        held[name] = np.ascontiguousarray(array)
        size, total = size + array.nbytes, total + array.nbytes
    flush()
    if len(parts) == 1:
        parts[0][0].rename(folder / ONE_FILE)
        return
    where = {}
    for number, (path, names) in enumerate(parts, 1):
        final = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        path.rename(folder / final)
        where.update(dict.fromkeys(names, final))
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=2)
    (folder / INDEX_FILE).write_text(text + "\n", encoding="utf-8")


def _write_file(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    save_file(dict(tensors), path, metadata={"format": "pt"})
    path.chmod(0o644)  # the library's own would keep everybody else out
