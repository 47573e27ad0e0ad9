"""`type:` registries: which dataclass a section becomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T", bound=type)


class Registry:
    """Maps the `type:` of a section to its frozen dataclass.

    A plug-in adds a kind with the same decorator that tfllm uses itself:

    >>> OPTIMIZERS = Registry("optimizer", default="adamw")
    >>> @OPTIMIZERS.register("adamw")
    ... class AdamW: ...

    Args:
        section: What the section is called, for messages.
        default: The type taken when a section names none; None makes `type` required.
    """

    def __init__(self, section: str, default: str | None = None):
        self.section = section
        self.default = default
        self._classes: dict[str, type] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator that enters a dataclass under `name`."""

        def enter(cls: T) -> T:
            if name in self._classes:
                raise ValueError(f"{self.section} type {name!r} is registered twice")
            self._classes[name] = cls
            return cls

        return enter

    def names(self) -> list[str]:
        """The registered types, sorted."""
        return sorted(self._classes)

    def get(self, name: Any) -> type | None:
        """The dataclass entered under `name`, or None."""
        return self._classes.get(name) if isinstance(name, str) else None
