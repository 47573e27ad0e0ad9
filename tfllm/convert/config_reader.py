"""A checkpoint's `config.json`, read key by key so that what nobody read is known."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

from tfllm.convert.errors import ConvertError

REQUIRED = object()
_WORDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    list: "a list",
    dict: "a mapping",
}


class ConfigReader:
    """Hands out values and remembers which.

    Args:
        mapping: The content of the file.
        where: The file, for messages.
    """

    def __init__(self, mapping: Mapping[str, Any], where: str):
        self.where = where
        self._mapping = mapping
        self._read: set[str] = set()
        self.notes: list[str] = []

    def take(self, key: str, kind: type, default: Any = REQUIRED, *, null: Any = REQUIRED) -> Any:
        """The value of a key, of a kind.

        Args:
            key: The key.
            kind: int, float, bool, str, list or dict; a float may be written as a whole number.
            default: The value where the key is absent.
            null: The value where it is null; by default as where it is absent.

        Raises:
            ConvertError: when it is absent and has no default, or is of another kind.
        """
        self._read.add(key)
        value = self._mapping.get(key)
        if value is None and key in self._mapping and null is not REQUIRED:
            return null
        if value is None:
            if default is REQUIRED:
                raise ConvertError(f"{self.where}: {key} is missing, so the model's shape is not known")
            return default
        if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1000:
            return float(value)
        if (
            not isinstance(value, kind)
            or (kind is int and isinstance(value, bool))
            or (isinstance(value, float) and not math.isfinite(value))
        ):
            raise ConvertError(f"{self.where}: {key}={shown(value)} must be {_WORDS[kind]}")
        return value

    def size(self, key: str, default: Any = REQUIRED, *, null: Any = REQUIRED) -> Any:
        """A whole number of at least one, and less than 2 ** 31; or what `take` has where there is none."""
        value = self.take(key, int, default, null=null)
        if value is not None and not 0 < value < 2**31:
            raise ConvertError(f"{self.where}: {key}={shown(value)} must be at least 1 and below 2 ** 31")
        return value

    def nested(self, key: str) -> ConfigReader | None:
        """The mapping under a key as a reader of its own, or None."""
        value = self.take(key, dict, None)
        return None if value is None else ConfigReader(value, f"{self.where}: {key}")

    def has(self, key: str) -> bool:
        """Whether the key has a value."""
        return self._mapping.get(key) is not None

    def ignore(self, *keys: str) -> None:
        """Counts keys as read that say nothing about what the model computes."""
        self._read.update(keys)

    def only(self, key: str, allowed: Any, default: Any) -> None:
        """Accepts one value.

        Raises:
            ConvertError: when the file has another.
        """
        self._read.add(key)
        value = self._mapping.get(key)
        if (value is not None and value != allowed) or (value is None and default != allowed):
            shown = default if value is None else value
            raise self.refuse(key, shown, f"only {allowed!r} is")

    def refuse(self, key: str, value: Any, instead: str) -> ConvertError:
        """The error that a value is not implemented."""
        return ConvertError(f"{self.where}: {key}={shown(value)} is not implemented in tfllm; {instead}")

    def unread(self) -> dict[str, Any]:
        """What nobody read, is not private to the writer, and is not switched off by its value."""
        left = {key for key in self._mapping.keys() - self._read if not key.startswith("_")}
        return {
            key: self._mapping[key]
            for key in sorted(left)
            if self._mapping[key] not in (None, False, [], {}, 0)
        }


_REPR = reprlib.Repr()
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = 100
_REPR.maxlong, _REPR.maxstring, _REPR.maxother, _REPR.maxlevel = 40, 200, 200, 4
_MOST_SHOWN = 1000


def shown(value: Any) -> str:
    """A value of a stranger's file for a message, of bounded length."""
    text = _REPR.repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
