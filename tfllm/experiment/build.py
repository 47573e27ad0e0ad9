"""A section of a config → what it describes: the builder that its type names, called with its keys."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Collection, Iterator
from typing import Any, NoReturn

from tfllm.config import ConfigError, ExperimentConfig, Problem
from tfllm.config.build import to_mapping


def build(section: Any, /, *, at: str, without: Collection[str] = (), **more: Any) -> Any:
    """Makes what a section describes.

    Args:
        section: One whose type is registered with a builder.
        at: Its path in the config, for messages.
        without: Keys that the builder is not given, beside `type`.
        more: What it is given besides, or in the place of a key.

    Raises:
        ConfigError: when the builder does not exist.
    """
    return builder_of(section, at)(**{**arguments_of(section, "type", *without), **more})


def builder_of(section: Any, at: str) -> Any:
    """What a section's type was registered with, imported.

    Raises:
        ConfigError: when there is none, or no such module or name in it.
    """
    cls = type(section)
    if cls.builds is None:
        _refuse(section, at, "has no builder", "give `builds` where the type is registered")
    name, _, attribute = cls.builds.partition(":")
    mend = f"correct `builds` where {cls.__module__} registers the type"
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        _refuse(section, at, f"is built by {cls.builds}, and {name} cannot be imported ({error})", mend)
    if not hasattr(module, attribute):
        _refuse(section, at, f"is built by {cls.builds}, and {name} has no {attribute}", mend)
    return getattr(module, attribute)


def check_builders(config: ExperimentConfig) -> None:
    """Looks at the start for what would be called for late.

    Raises:
        ConfigError: with every section whose builder does not exist.
    """
    problems: list[Problem] = []
    for at, section in _sections(config, ""):
        try:
            builder_of(section, at)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems, "the config")


def arguments_of(section: Any, *without: str) -> dict[str, Any]:
    """A section as keyword arguments, but for the keys named; a section inside it is a plain mapping."""
    values = {f.name: getattr(section, f.name) for f in dataclasses.fields(section) if f.name not in without}
    return {k: to_mapping(v) if dataclasses.is_dataclass(v) else v for k, v in values.items()}


def _refuse(section: Any, at: str, rule: str, mend: str) -> NoReturn:
    raise ConfigError([Problem(f"{at}.type", section.type, rule, mend)], "the config")


def _sections(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    """The sections that have a builder, wherever they stand."""
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _sections(item, f"{at}[{index}]")
    elif dataclasses.is_dataclass(value):
        if getattr(type(value), "builds", None) is not None:
            yield at, value
        for field in dataclasses.fields(value):
            yield from _sections(getattr(value, field.name), f"{at}.{field.name}" if at else field.name)
