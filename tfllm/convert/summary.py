"""What a checkpoint is, before it is loaded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tfllm.convert.checkpoint import Checkpoint, stored_names
from tfllm.models.encoder import Encoder

Section = tuple[str, list[tuple[str, str]]]
# Of a number at each precision.
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


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
            parts[part_of(row.ours[0])] += math.prod(shapes[names[row.theirs]])
    total = sum(parts.values())
    family = [
        ("type", checkpoint.family.model_type),
        ("stored as", ", ".join(f"{kind} ({count} tensors)" for kind, count in types.most_common())),
    ]
    notes = [("", note) for note in checkpoint.notes] or [("", "nothing")]
    return [
        ("FAMILY", family),
        ("MODEL", [(name, _shown(value)) for name, value in arguments.items() if value not in (None, False)]),
        ("PARAMETERS", parameter_rows(parts)),
        ("MEMORY", _memory(checkpoint, total)),
        ("LEFT ASIDE", notes),
    ]


def parameter_rows(parts: Mapping[str, int]) -> list[tuple[str, str]]:
    """Parameters of each part and their share, and of all."""
    total = sum(parts.values())
    numbers = [(part, f"{count:>14,} {count / total:>7.1%}") for part, count in parts.items()]
    return [*numbers, ("total", f"{total:>14,}")]


def part_of(path: str) -> str:
    """The part of a model that a variable belongs to, by its path without the model's name.

    `block_03/attention/query/kernel` → `blocks/attention`, in a stack `decoder/blocks/attention`.
    """
    names = path.split("/")
    depth = 1 if len(names) > 1 and names[1].startswith("block_") else 0
    stack, (first, *rest) = names[:depth], names[depth:]
    return "/".join([*stack, "blocks", rest[0]] if first.startswith("block_") else [*stack, first])


def _memory(checkpoint: Checkpoint, parameters: int) -> list[tuple[str, str]]:
    tokens, per_token, what = (0, 0, "")  # what tells classes keeps no cache, nor does an encoder
    classifies = checkpoint.arguments.get("head") == "sequence_classification"
    if checkpoint.family.kind.model is not Encoder and not classifies:
        tokens, per_token, what = _cache(checkpoint.arguments)
    rows = []
    for precision, size in BYTES.items():
        cache = f", and {bytes_text(tokens * per_token * size)} of cache for {what}" if tokens else ""
        rows.append((precision, bytes_text(parameters * size) + cache))
    return rows


def _cache(arguments: dict[str, Any]) -> tuple[int, int, str]:
    """Tokens to keep keys and values of, numbers a token, and what the tokens are."""
    if "num_decoder_layers" in arguments:
        heads, kv_heads = arguments["decoder_num_heads"], arguments["num_kv_heads"]
        head_dim = arguments["head_dim"] or arguments["hidden_dim"] // heads
        width = (kv_heads or heads) * head_dim
        per_token, longest = 2 * arguments["num_decoder_layers"] * width, arguments["max_seq_len"]
        if longest is None:
            return 1000, per_token, "1000 tokens of source or target"
        return 2 * longest, per_token, "a row of the longest source and target"
    per_token = 2 * arguments["num_layers"] * arguments["num_kv_heads"] * arguments["head_dim"]
    return arguments["max_seq_len"], per_token, "a row of the longest context"


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def bytes_text(count: float) -> str:
    """A number of bytes, for reading."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
