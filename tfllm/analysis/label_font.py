"""The font of token labels, and labels it can draw."""

from __future__ import annotations

from functools import lru_cache

from matplotlib.font_manager import FontProperties, findfont, get_font

# It comes with Matplotlib, and has all marks of token labels but one: ␣ ⏎ ⇥, not ␍.
FONT = "DejaVu Sans"
_INSTEAD = {"␍": r"\r"}


def drawable(label: str) -> str:
    r"""Spells out characters the font lacks, `你` as `\u4F60`: a box would say nothing."""
    known = _characters()
    return "".join(c if ord(c) in known else _spelled(c) for c in label)


def _spelled(character: str) -> str:
    code = ord(character)
    return _INSTEAD.get(character, f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}")


@lru_cache(maxsize=1)
def _characters() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(family=FONT))).get_charmap())
