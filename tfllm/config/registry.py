"""`type:` registries: which dataclass a section becomes, and what builds the thing it describes."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

T = TypeVar("T", bound=type)

_ADDRESS = re.compile(r"\w+(\.\w+)*:\w+")


class RegistryError(ValueError):
    """A type that cannot be registered, and why."""


class Registry:
    """Maps the `type:` of a section to its frozen dataclass.

    A plug-in adds a kind with the same decorator that tfllm uses itself:

    >>> OPTIMIZERS = Registry("optimizer", default="adamw")
    >>> @OPTIMIZERS.register("adamw", builds="tfllm.training.update_rules:AdamW")
    ... @dataclasses.dataclass(frozen=True, kw_only=True)
    ... class AdamWConfig:
    ...     type: str = "adamw"

    Args:
        section: What the section is called, for messages.
        default: The type taken when a section names none; None makes `type` required.
        needs: Keys or properties that every type of it has.
    """

    _order: ClassVar[list[tuple[Registry, str]]] = []  # of all registrations, in all registries

    def __init__(self, section: str, default: str | None = None, *, needs: Sequence[str] = ()):
        self.section = section
        self.default = default
        self.needs = ("type", *needs)
        self._classes: dict[str, type] = {}

    def register(self, name: str, *, builds: str | None) -> Callable[[T], T]:
        """Returns a decorator that enters a dataclass under `name`.

        Args:
            name: The type.
            builds: `package.module:name` of what makes the thing described, called with the section's keys. It is
                imported when the thing is made, not before. None: nothing is made of the section by itself.

        Raises:
            RegistryError: when the name is taken, or the dataclass lacks what every type of the section has.
        """

        def enter(cls: T) -> T:
            problem = self._problem(name, cls, builds)
            if problem is not None:
                raise RegistryError(f"{self.section} type {name!r} {problem}")
            cls.builds = builds  # type: ignore[attr-defined]
            self._classes[name] = cls
            self._order.append((self, name))
            return cls

        return enter

    def names(self) -> list[str]:
        """The registered types, sorted."""
        return sorted(self._classes)

    def get(self, name: Any) -> type | None:
        """The dataclass entered under `name`, or None."""
        return self._classes.get(name) if isinstance(name, str) else None

    def _problem(self, name: str, cls: type, builds: str | None) -> str | None:
        if name in self._classes:
            there = self._classes[name].__module__
            return f"is registered twice, by {there} and by {cls.__module__}; give one of them another name"
        if not dataclasses.is_dataclass(cls):
            return f"is no dataclass; write @dataclasses.dataclass(frozen=True, kw_only=True) above {cls.__name__}"
        fields = {field.name for field in dataclasses.fields(cls)}
        missing = [need for need in self.needs if need not in fields and not hasattr(cls, need)]
        if missing:
            return f"lacks {', '.join(missing)}, which every {self.section} has; declare it in {cls.__name__}"
        if builds is not None and not _ADDRESS.fullmatch(builds):
            return f"builds {builds!r}, which is no address; write package.module:name"
        return None


@contextlib.contextmanager
def without_failures() -> Iterator[None]:
    """Where importing raises inside, forgets the types of modules that failed: they are not there to be used."""
    before = len(Registry._order)
    try:
        yield
    except BaseException:
        for registry, name in Registry._order[before:]:
            if registry._classes[name].__module__ not in sys.modules:
                del registry._classes[name]
                Registry._order.remove((registry, name))
        raise
