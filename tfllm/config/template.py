"""Templates: a text with places in it, such as `Summarize: {source}`; a place is a name in braces, and no code."""

from __future__ import annotations

from string import Formatter


def split_template(template: str, *fields: str) -> tuple[str, ...]:
    """Return what stands before the first place, between places, and behind the last; of `{{` and `}}` one brace each.

    Args:
        template: The text.
        fields: The names of its places, in their order.

    Raises:
        ValueError: It has other places, or in another order, or braces that are none; the message is a rule.
    """
    wanted = " and then ".join("{" + field + "}" for field in fields)
    try:
        parts = list(Formatter().parse(template))
    except ValueError:
        raise ValueError(f"has a brace that belongs to no {wanted}; write {{{{ or }}}} for one") from None
    places = [name for _, name, _, _ in parts if name is not None]
    plain = all(not spec and conversion is None for _, _, spec, conversion in parts)
    if places != list(fields) or not plain:
        found = "none" if not places else ", ".join("{" + name + "}" for name in places)
        once = "once" if len(fields) == 1 else "once each"
        raise ValueError(f"must hold {wanted} {once} and no other place, and holds {found}")
    pieces = [""]
    for literal, name, _, _ in parts:
        pieces[-1] += literal
        if name is not None:
            pieces.append("")
    return tuple(pieces)
