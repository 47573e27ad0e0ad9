"""A promise of a config key: what shows that it is kept, and what must not show it where the key has its default."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest


@dataclasses.dataclass(frozen=True)
class Case:
    """One key at a value that is not its default.

    Args:
        shows: Takes what came of the config and asserts the key's effect.
        values: Dotted overrides under which the effect shows; they hold the key.
        without: Dotted overrides under which it must not: `shows` has to fail there. So a key that the code
            never reads, or that changes nothing, cannot pass.
    """

    shows: Callable[[Any], None]
    values: Mapping[str, Any]
    without: Mapping[str, Any]


def hold(case: Case, made: Callable[[Mapping[str, Any]], Any]) -> None:
    """Asserts that the effect shows, and that it does not without the key."""
    assert case.values != case.without
    case.shows(made(case.values))
    there = made(case.without)
    with pytest.raises(AssertionError):
        case.shows(there)
