"""How much room each of two texts gets."""

from __future__ import annotations

from collections.abc import Sequence


def shares(sizes: Sequence[int], room: int) -> list[int]:
    """Return how much is kept of one text, or of each of two: the longer loses first; an odd token goes to the first.

    Args:
        sizes: Tokens of each.
        room: Tokens that both may have together.
    """
    if len(sizes) == 1:
        return [min(sizes[0], room)]
    halves = ((room + 1) // 2, room // 2)
    pairs = zip(sizes, halves, reversed(sizes), strict=True)
    return [min(size, max(half, room - other)) for size, half, other in pairs]
