"""GGUF files in several parts, as llama.cpp's `gguf-split` writes them: `name-00001-of-00003.gguf` and so on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.convert.errors import ConvertError
from tfllm.convert.gguf_header import GgufHeader, TensorPlace

_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_NUMBER, _COUNT, _TENSORS = "split.no", "split.count", "split.tensors.count"


class GgufParts:
    """The keys and tensors of a GGUF file, and of the parts beside it where it is one of several.

    Args:
        path: The file, or any of the parts.

    Raises:
        ConvertError: when one is not a GGUF file, damaged or missing, or they are not parts of one another.

    Attributes:
        metadata: Every key of the first part to its value, but for lists.
        lists: The keys of its lists, each to a list of texts or an array of numbers.
        tensors: Name to place, of all parts.
    """

    def __init__(self, path: Path):
        given = GgufHeader(path)
        count = given.metadata.get(_COUNT, 0)
        if type(count) is not int or count <= 1:
            headers = [given]
        else:
            headers = _all_parts(path, given, count)
        self.metadata: dict[str, Any] = headers[0].metadata
        self.lists: dict[str, list[str] | np.ndarray] = headers[0].lists
        self.tensors: dict[str, TensorPlace] = {}
        for header in headers:
            for name, place in header.tensors.items():
                if name in self.tensors:
                    first = self.tensors[name].path.name
                    raise ConvertError(
                        f"{path}: {name} stands in {first} and in {place.path.name}; download it again"
                    )
                self.tensors[name] = place
        total = self.metadata.get(_TENSORS)
        if len(headers) > 1 and total is not None and total != len(self.tensors):
            raise ConvertError(
                f"{path}: its {count} parts hold {len(self.tensors)} tensors, and {_TENSORS} says {total}; download"
                " all of them again"
            )


def part_names(name: str) -> list[str]:
    """The names of all parts, of the name of one; of another file its own name only."""
    match = _NAME.fullmatch(name)
    if match is None or not 0 < int(match["number"]) <= int(match["count"]):
        return [name]
    count = int(match["count"])
    return [f"{match['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]


def _all_parts(path: Path, given: GgufHeader, count: int) -> list[GgufHeader]:
    number = given.metadata.get(_NUMBER)
    names = part_names(path.name)
    if type(number) is not int or not 0 <= number < count:
        raise ConvertError(f"{path}: {_NUMBER}={number!r} must be below {_COUNT}={count}; download it again")
    if len(names) != count or names[number] != path.name:
        raise ConvertError(
            f"{path} is part {number + 1} of {count}, and the others are found by their names: give all of them the"
            f" names that they were published under, this one …-{number + 1:05d}-of-{count:05d}.gguf"
        )
    missing = [name for name in names if not path.with_name(name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more are" if len(missing) > 1 else " is"
        raise ConvertError(
            f"{path.parent}: {missing[0]}{more} missing; put all {count} parts into one folder"
        )
    headers = []
    for index, name in enumerate(names):
        header = given if index == number else GgufHeader(path.with_name(name))
        says = (header.metadata.get(_NUMBER), header.metadata.get(_COUNT))
        if says != (index, count):
            raise ConvertError(
                f"{path.with_name(name)}: {_NUMBER} and {_COUNT} are {says[0]!r} and {says[1]!r} and should be {index}"
                f" and {count}; it is a part of another file, or was renamed"
            )
        headers.append(header)
    return headers
