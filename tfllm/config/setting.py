"""A config field with its rules beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from tfllm.config.errors import Problem
from tfllm.config.registry import Registry

REQUIRED = dataclasses.MISSING


def setting(
    default: Any = REQUIRED,
    help: str = "",
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    choices: Sequence[str] | None = None,
    registry: Registry | None = None,
) -> Any:
    """Declares one key of a section.

    Args:
        default: Value when the key is absent; leave out to make the key required. A dict is read
            as the section itself would be.
        help: One line that says what the key does, with its unit.
        minimum: Smallest value allowed.
        above: Value that must be exceeded.
        maximum: Largest value allowed.
        below: Value that must not be reached.
        choices: The strings allowed.
        registry: Makes the key a section whose `type` picks the dataclass.

    Returns:
        A `dataclasses.field`.
    """
    rules = {"minimum": minimum, "above": above, "maximum": maximum, "below": below, "choices": choices}
    metadata = {"help": help, "registry": registry, **rules}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def broken_rules(path: str, value: Any, metadata: Any) -> Iterator[Problem]:
    """Yields a problem for each rule of a field that `value` breaks."""
    choices = metadata.get("choices")
    if choices is not None and value not in choices:
        yield Problem(path, value, "is not a known choice", f"write one of {', '.join(choices)}")
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return
    for key, holds, words in (
        ("minimum", lambda bound: value >= bound, "must be at least {}"),
        ("above", lambda bound: value > bound, "must be greater than {}"),
        ("maximum", lambda bound: value <= bound, "must be at most {}"),
        ("below", lambda bound: value < bound, "must be less than {}"),
    ):
        bound = metadata.get(key)
        if bound is not None and not holds(bound):
            yield Problem(path, value, words.format(bound), "")
