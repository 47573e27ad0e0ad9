"""The numbers of a tensor in a GGUF file, without their quantization."""

from __future__ import annotations

import functools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np

from tfllm.convert.errors import ConvertError
from tfllm.convert.gguf_header import TensorPlace

# Types that NumPy has; the `gguf` package undoes the others.
_PLAIN: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}
# Numbers undone at once: the package takes sixteen rows at a time, whatever their length, and pays for each time.
_AT_ONCE = 1 << 18
_ROWS = 16


def numbers_at(place: TensorPlace, name: str) -> np.ndarray:
    """The numbers of a tensor, in the type of float they are stored in, float32 where they are quantized.

    Raises:
        ConvertError: when the quantization is not known, or the file cannot be read any more.
    """
    if place.size == 0:
        return np.zeros(place.shape, np.float32)
    try:
        data = np.fromfile(place.path, np.uint8, place.size, offset=place.offset)
    except OSError as error:
        raise ConvertError(f"{place.path} cannot be read ({error.strerror or error})") from None
    if data.size < place.size:
        raise ConvertError(f"{place.path} became shorter while it was read; download it again")
    if place.type in _PLAIN:
        return data.view(_PLAIN[place.type]).reshape(place.shape)
    try:
        return _undone(data, place).reshape(place.shape)
    except NotImplementedError:
        raise ConvertError(
            f"{place.path}: {name} is quantized as {place.type}, which the gguf package cannot undo; take a file with"
            " another quantization"
        ) from None


def _undone(data: np.ndarray, place: TensorPlace) -> np.ndarray:
    """float32 [entries]: blocks do not know of rows, so they are cut into pieces of a good length, a thread each."""
    import gguf

    kind = gguf.GGMLQuantizationType[place.type]
    block, width = gguf.GGML_QUANT_SIZES[kind]
    numbers = np.empty(math.prod(place.shape), np.float32)
    blocks = numbers.size // block
    step = max(1, _AT_ONCE // block // _ROWS) * _ROWS

    def undo(begin: int) -> None:
        piece = data[begin * width : (begin + step) * width]
        rows = _ROWS if piece.size % (_ROWS * width) == 0 else 1
        numbers[begin * block : (begin + step) * block] = gguf.quants.dequantize(
            piece.reshape(rows, -1), kind
        ).ravel()

    if blocks <= step:
        undo(0)
        return numbers
    list(_threads().map(undo, range(0, blocks, step)))
    return numbers


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """The same ones for all tensors; to start new ones for each takes longer than many a tensor."""
    return ThreadPoolExecutor(os.cpu_count() or 1)
