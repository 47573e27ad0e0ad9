"""The characters to ask a library about, to know what it does with all of them."""

from __future__ import annotations

from functools import cache


@cache
def asked_about() -> tuple[int, ...]:
    """Return code points, ascending; one that is left out is treated as the last one before it.

    Left out are planes and blocks in which nothing is assigned, or everything for private use, in any version of
    Unicode up to 17, but for the two noncharacters that end each plane.
    """
    blocks = (range(0xD800), range(0xE000, 0x33800), range(0xE0000, 0xE1000))
    ends = (plane + last for plane in range(0, 0x110000, 0x10000) for last in (0, 0xFFFE))
    return tuple(sorted({*(point for block in blocks for point in block), *ends, 0xE1000}))
