"""Tags of words ↔ spans of words, whatever the scheme that a file is written in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

Span = tuple[int, int, str]  # the first word, the one behind the last, and what it is

OUTSIDE = "O"
_TAG = re.compile(r"O|([BIESLU])(?:-(.+))?", re.DOTALL)
_STARTS, _ENDS = "BSU", "ESLU"


def mark_spans(tags: Iterable[str]) -> bool:
    """Return whether tags say where spans begin and end: O, and B-, I-, E-, S-, L- or U- before what the span is."""
    return all(_TAG.fullmatch(tag) for tag in tags)


def spans_of(tags: Sequence[str]) -> list[Span]:
    """Return the spans that tags mark, in order.

    One rule reads IOB1, IOB2, IOBES and BILOU, and what breaks them, as `conlleval` does (Tjong Kim Sang and De Meulder
    2003): a span begins at B, S or U, and at any other tag of a type that the span before does not have; it ends
    behind E, L, S or U, and before whatever does not go on with it.

    Args:
        tags: Of words, such that `mark_spans` of them is true.
    """
    spans: list[Span] = []
    start: int | None = None
    kind = ""
    for place, tag in enumerate(tags):
        match = _TAG.fullmatch(tag)
        prefix, named = (match[1], match[2] or "") if match else (None, "")
        if start is not None and (prefix is None or prefix in _STARTS or named != kind):
            spans.append((start, place, kind))
            start = None
        if prefix is None:
            continue
        if start is None:
            start, kind = place, named
        if prefix in _ENDS:
            spans.append((start, place + 1, kind))
            start = None
    if start is not None:
        spans.append((start, len(tags), kind))
    return spans


def iob2(spans: Iterable[Span], length: int) -> list[str]:
    """Return the tags of so many words: B- on the first word of each span, I- on its others, else O."""
    tags = [OUTSIDE] * length
    for start, stop, kind in spans:
        tags[start:stop] = [_tag("B", kind), *[_tag("I", kind)] * (stop - start - 1)]
    return tags


def tag_names(kinds: Iterable[str]) -> list[str]:
    """Return the tags of IOB2 for spans of these kinds."""
    return [OUTSIDE, *(_tag(prefix, kind) for kind in kinds for prefix in "BI")]


def _tag(prefix: str, kind: str) -> str:
    return f"{prefix}-{kind}" if kind else prefix
