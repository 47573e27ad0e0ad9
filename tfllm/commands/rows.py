"""Rows as a model sees them: tokens by segment, what is learned, and what is said of each segment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_PLACED = (
    "token_ids",
    "segment_ids",
    "positions",
    "targets",
    "loss_weights",
    "learned",
)  # what is shown by itself
_KEPT = ("row_ids", "source_ids", "row_seeds", "example_ids")
_SHOWN = 12  # values of a segment


def row_lines(features: Mapping[str, np.ndarray], tokenizer: Any, task: Any) -> Iterator[str]:
    """Yields lines for each row of a batch.

    Args:
        features: What the task makes for a model, with `token_ids` and `segment_ids` of each side [B, T].
        tokenizer: Names tokens.
        task: The task, which may have `class_names`.
    """
    sides = [name.removesuffix("token_ids") for name in features if name.endswith("token_ids")]
    for row, number in enumerate(features["row_ids"]):
        yield f"row {number}"
        count = max(int(features[f"{side}segment_ids"][row].max()) for side in sides)
        for segment in range(1, count + 1):
            yield f"  segment {segment}"
            for side in sides:
                own = features[f"{side}segment_ids"][row] == segment
                yield from _side(features, row, own, side, tokenizer, task)
            yield from _segment(features, row, segment - 1, count, task)
        yield from _masked(features, row, tokenizer)


def _side(
    features: Mapping[str, np.ndarray], row: int, own: np.ndarray, side: str, tokenizer: Any, task: Any
) -> Iterator[str]:
    """The tokens of a side; those that it learns to give, where it does; and what else each of them has."""
    name = f"{side.rstrip('_') or 'tokens'}:"
    yield f"    {name:<10}{_words(features[f'{side}token_ids'][row][own], tokenizer)}"
    weights, targets = features.get("loss_weights"), features.get("targets")
    if (
        weights is not None
        and targets is not None
        and weights.shape == features[f"{side}token_ids"].shape
        and (side in ("", "decoder_"))
    ):
        learned = own & (weights[row] > 0)
        yield f"    {'learns:':<10}{_words(targets[row][learned], tokenizer)}"
    shape = features[f"{side}token_ids"].shape
    for other, values in features.items():
        if other.removeprefix(side) in _PLACED or values.shape != shape or not other.startswith(side):
            continue
        if side == "" and other.startswith(("encoder_", "decoder_")):
            continue
        said = values[row][own]
        if not said.any():
            continue
        named = _named(other, said, task)
        if other == "tags":  # which the first token of a word tells
            named = [
                tag if word else "·" for tag, word in zip(named, features["words"][row][own], strict=True)
            ]
        yield f"    {other + ':':<10}{' '.join(map(str, named))}"


def _segment(
    features: Mapping[str, np.ndarray], row: int, segment: int, count: int, task: Any
) -> Iterator[str]:
    """What is said of a segment."""
    examples = features.get("example_ids")
    if examples is None or examples.shape[1] < count:
        return
    for name, values in features.items():
        if name in _KEPT or values.shape[:2] != examples.shape or "segment_ids" in name or name in _PLACED:
            continue
        if any(values.shape == features[each].shape for each in features if each.endswith("token_ids")):
            continue
        said = np.atleast_1d(values[row, segment])[:_SHOWN]
        yield f"    {name + ':':<10}{' '.join(map(str, _named(name, said, task)))}"


def _masked(features: Mapping[str, np.ndarray], row: int, tokenizer: Any) -> Iterator[str]:
    """The tokens that are hidden, and where."""
    if "masked_positions" not in features:
        return
    real = features["masked_weights"][row] > 0
    pairs = zip(features["masked_positions"][row][real], features["masked_targets"][row][real], strict=True)
    yield f"  learns:     {' '.join(f'{place}:{tokenizer.token_label(int(i))}' for place, i in pairs)}"


def _words(ids: np.ndarray, tokenizer: Any) -> str:
    return " ".join(tokenizer.token_label(int(i)) for i in ids)


def _named(name: str, values: np.ndarray, task: Any) -> list[Any]:
    """Classes and tags by their names."""
    names = getattr(task, "class_names", None)
    if (
        name in ("labels", "tags")
        and names
        and values.dtype.kind == "i"
        and values.max(initial=0) < len(names)
    ):
        return [names[int(value)] for value in values]
    return [round(float(value), 4) if values.dtype.kind == "f" else int(value) for value in values]
