"""What a checkpoint is, before it is loaded."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from tfllm.convert.checkpoint import Checkpoint, stored_names

Section = tuple[str, list[tuple[str, str]]]
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def summary(checkpoint: Checkpoint) -> list[Section]:
    """Family, sizes, parameters, memory at each precision, and what was not understood.

    Returns:
        Titles, each with its names and values.

    Raises:
        ConvertError: when the files of the weights are missing or damaged.
    """
    tensors = checkpoint.open_tensors()
    shapes, types = tensors.shapes, Counter(tensors.types.values())
    arguments = checkpoint.arguments
    parts: Counter[str] = Counter()
    table = checkpoint.family.rows(arguments)
    names = stored_names(checkpoint.family, table, shapes)
    for row in table:
        if row.theirs in names:
            parts[_part(row.ours[0])] += math.prod(shapes[names[row.theirs]])
    total = sum(parts.values())
    numbers = [(part, f"{count:>14,} {count / total:>7.1%}") for part, count in parts.items()]
    family = [
        ("type", checkpoint.family.model_type),
        ("stored as", ", ".join(f"{kind} ({count} tensors)" for kind, count in types.most_common())),
    ]
    notes = [("", note) for note in checkpoint.notes] or [("", "nothing")]
    return [
        ("FAMILY", family),
        ("MODEL", [(name, _shown(value)) for name, value in arguments.items() if value not in (None, False)]),
        ("PARAMETERS", [*numbers, ("total", f"{total:>14,}")]),
        ("MEMORY", _memory(arguments, total)),
        ("LEFT ASIDE", notes),
    ]


def _part(path: str) -> str:
    """`block_03/attention/query/kernel` → `blocks/attention`."""
    names = path.split("/")
    return f"blocks/{names[1]}" if names[0].startswith("block_") else names[0]


def _memory(arguments: dict[str, Any], parameters: int) -> list[tuple[str, str]]:
    rows = [(precision, _bytes(parameters * size)) for precision, size in _BYTES.items()]
    if "num_kv_heads" not in arguments:  # not a decoder
        return rows
    per_token = 2 * arguments["num_layers"] * arguments["num_kv_heads"] * arguments["head_dim"]
    per_row = per_token * arguments["max_seq_len"]
    return [
        (precision, f"{memory}, and {_bytes(per_row * size)} of cache for a row of the longest context")
        for (precision, memory), size in zip(rows, _BYTES.values(), strict=True)
    ]


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _bytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
