"""JSON out of strangers' files, within bounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# The largest published tokenizer.json has 34 MB, and nothing in a checkpoint is nested deeper than ten times.
_MOST_BYTES = 1 << 27
_MOST_DEPTH = 64


def read_json(path: str | Path) -> Any:
    """What the JSON file at a path holds.

    Raises:
        OSError: when it cannot be read.
        ValueError: when it is not JSON in UTF-8, too large, or nested too deep; the message says which.
    """
    with Path(path).open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    return parse_json(data)


def parse_json(data: bytes) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: when it is not JSON in UTF-8, too large, or nested too deep; the message says which.
    """
    if len(data) > _MOST_BYTES:
        raise ValueError(f"more than {_MOST_BYTES} bytes")
    try:
        content = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError(f"lists and mappings nested deeper than {_MOST_DEPTH} times") from None
    level, depth = [content], 0
    while level:
        depth += 1
        if depth > _MOST_DEPTH + 1:
            raise ValueError(f"lists and mappings nested deeper than {_MOST_DEPTH} times")
        level = [
            child
            for each in level
            if type(each) in (dict, list)
            for child in (each.values() if type(each) is dict else each)
            if type(child) in (dict, list)
        ]
    return content
