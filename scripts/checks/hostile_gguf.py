"""GGUF files as somebody who means harm, or a broken disk, would write them.

`CASES` maps what is wrong to a function that writes the file into a folder and returns its path.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from scripts.checks.small_gguf import gguf_bytes, gguf_metadata, gguf_tensors, tensor_info, text

CASES: dict[str, Callable[[Path], Path]] = {}


def _gguf(name: str, make: Callable[[], bytes], file: str = "model.gguf") -> None:
    def write(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(make())
        return folder / file

    CASES[f"gguf: {name}"] = write


def _gguf_key(name: str, key: str, value: Any) -> None:
    """A value, or, where it is large, what makes it."""
    _gguf(
        name,
        lambda: gguf_bytes({**gguf_metadata(), key: value() if callable(value) else value}, gguf_tensors()),
    )


_gguf("2^60 keys", lambda: gguf_bytes(gguf_metadata(), gguf_tensors(), keys=2**60))
_gguf("2^60 tensors", lambda: gguf_bytes(gguf_metadata(), gguf_tensors(), count=2**60))
_gguf(
    "10^6 keys without end",
    lambda: (
        b"GGUF"
        + struct.pack("<IQQ", 3, 0, 10**6)
        + b"".join(text(f"k{i}") + struct.pack("<IB", 0, 1) for i in range(10**6))
    ),
)
_gguf_key("a list of 2^60", "llama.x", struct.pack("<IIQ", 9, 4, 2**60))
_gguf_key("a list of 2^60 texts", "llama.x", struct.pack("<IIQ", 9, 8, 2**60))
_gguf_key(
    "a list of 3 * 10^7 numbers", "llama.x", lambda: struct.pack("<IIQ", 9, 0, 3 * 10**7) + b"\1" * 3 * 10**7
)
_gguf_key(
    "a list of 3 * 10^7 empty texts",
    "llama.x",
    lambda: struct.pack("<IIQ", 9, 8, 3 * 10**7) + b"\0" * 24 * 10**7,
)
_gguf_key(
    "a list of 4 * 10^6 numbers", "llama.x", lambda: struct.pack("<IIQ", 9, 0, 4 * 10**6) + b"\1" * 4 * 10**6
)
_gguf_key(
    "lists nested 100,000 deep",
    "llama.x",
    lambda: struct.pack("<I", 9) + (struct.pack("<IQ", 9, 1)) * 10**5 + struct.pack("<IQB", 0, 1, 1),
)
_gguf_key("a text of 2^63", "llama.x", struct.pack("<IQ", 8, 2**63))
_gguf_key("a text of 200 MB", "llama.x", lambda: "x" * 200_000_000)
_gguf_key("a text that is not UTF-8", "llama.x", struct.pack("<IQ", 8, 2) + b"\xff\xfe")
_gguf_key("an unknown type of value", "llama.x", struct.pack("<II", 77, 0))
_gguf_key("an unknown type in a list", "llama.x", struct.pack("<IIQ", 9, 77, 3))
_gguf_key("a truth of 7", "llama.x", struct.pack("<IB", 7, 7))
_gguf("a key twice", lambda: gguf_bytes([*gguf_metadata().items(), ("llama.block_count", 2)], gguf_tensors()))
_gguf("a key that is not UTF-8", lambda: gguf_bytes([*gguf_metadata().items(), (b"\xff", 2)], gguf_tensors()))
_gguf("version 1", lambda: gguf_bytes(gguf_metadata(), gguf_tensors(), version=1))
_gguf("version 99", lambda: gguf_bytes(gguf_metadata(), gguf_tensors(), version=99))
_gguf("big-endian", lambda: b"GGUF" + struct.pack(">IQQ", 3, 0, 0))
_gguf("a tensor twice", lambda: gguf_bytes(gguf_metadata(), [*gguf_tensors(), gguf_tensors()[1]]))
for _name, _info in {
    "9 dimensions": lambda name, dims, at: tensor_info(name, [*dims, *[1] * 9][:9], at),
    "2^31 dimensions": lambda name, dims, at: text(name) + struct.pack("<I", 2**31),
    "sizes of 2^63": lambda name, dims, at: tensor_info(name, [2**63, 2**63], at),
    "sizes of 0": lambda name, dims, at: tensor_info(name, [0] * len(dims), at),
    "no dimensions": lambda name, dims, at: tensor_info(name, [], at),
    "offsets of 2^60": lambda name, dims, at: tensor_info(name, dims, 2**60),
    "offsets that are odd": lambda name, dims, at: tensor_info(name, dims, at + 1),
    "all in one place": lambda name, dims, at: tensor_info(name, dims, 0),
    "an unknown type": lambda name, dims, at: tensor_info(name, dims, at, 999),
    "blocks that do not fit": lambda name, dims, at: tensor_info(name, dims, at, 8),
}.items():
    _gguf(f"tensors with {_name}", functools.partial(gguf_bytes, gguf_metadata(), gguf_tensors(), info=_info))
for _key, _value in {
    "llama.block_count": 10**9,
    "llama.embedding_length": 2**31 - 1,
    "llama.attention.head_count": 0,
    "llama.attention.head_count_kv": 3,
    "llama.rope.freq_base": "x",
    "llama.rope.dimension_count": "x",
    "llama.context_length": -1,
    "general.alignment": 3,
    "general.architecture": 7,
    "split.count": 2**20,
    "tokenizer.ggml.eos_token_id": 2**31 - 1,
    "tokenizer.ggml.bos_token_id": "x",
    "tokenizer.ggml.tokens": [1, 2],
    "tokenizer.ggml.token_type": ["x"] * 258,
    "tokenizer.ggml.merges": [1, 2],
    "tokenizer.chat_template": 5,
}.items():
    _gguf_key(f"{_key} is {str(_value)[:20]}", _key, _value)
_gguf(
    "a base of text beside factors",
    lambda: gguf_bytes(
        {**gguf_metadata(), "llama.rope.freq_base": "x"},
        [*gguf_tensors(), ("rope_freqs.weight", np.ones(2, np.float32))],
    ),
)
_gguf(
    "factors of 0",
    lambda: gguf_bytes(gguf_metadata(), [*gguf_tensors(), ("rope_freqs.weight", np.zeros(2, np.float32))]),
)
_gguf(
    "too many factors",
    lambda: gguf_bytes(gguf_metadata(), [*gguf_tensors(), ("rope_freqs.weight", np.full(9, 2, np.float32))]),
)
