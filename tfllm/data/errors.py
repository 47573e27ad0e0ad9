"""The one error of this package that a user can mend."""

from __future__ import annotations

from collections.abc import Sequence


class DataError(ValueError):
    """A mistake in the data or its settings; the message names the value, the rule and the mend."""


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """Return `value` if it is one of `choices`, else raise `DataError` naming `name` and the choices."""
    if value not in choices:
        raise DataError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}")
    return value
