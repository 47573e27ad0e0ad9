"""A section of a config as what it describes."""

from __future__ import annotations

import dataclasses
from typing import Any


def arguments_of(section: Any, *without: str) -> dict[str, Any]:
    """A section as keyword arguments, but for the keys named."""
    return {f.name: getattr(section, f.name) for f in dataclasses.fields(section) if f.name not in without}
