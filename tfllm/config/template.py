"""Templates: a text with a place in it, such as `Summarize: {source}`; a place is a name in braces, and no code."""

from __future__ import annotations

from string import Formatter


def split_template(template: str, field: str) -> tuple[str, str]:
    """Return what stands before and behind the place; of `{{` and `}}` one brace each.

    Args:
        template: The text.
        field: The name of its only place.

    Raises:
        ValueError: It has no such place, several, another, or braces that are none; the message is a rule.
    """
    wanted = "{" + field + "}"
    try:
        parts = list(Formatter().parse(template))
    except ValueError:
        raise ValueError(f"has a brace that belongs to no {wanted}; write {{{{ or }}}} for one") from None
    places = [name for _, name, _, _ in parts if name is not None]
    plain = all(not spec and conversion is None for _, _, spec, conversion in parts)
    if places != [field] or not plain:
        found = "none" if not places else ", ".join("{" + name + "}" for name in places)
        raise ValueError(f"must hold {wanted} once and no other place, and holds {found}")
    at = next(index for index, part in enumerate(parts) if part[1] is not None)
    before = "".join(literal for literal, *_ in parts[: at + 1])
    return before, "".join(literal for literal, *_ in parts[at + 1 :])
