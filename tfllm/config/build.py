"""Plain mappings → frozen dataclasses, collecting every mistake on the way."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from tfllm.config.errors import Problem
from tfllm.config.registry import Registry
from tfllm.config.setting import broken_rules
from tfllm.config.written import LARGEST, Written, as_bool, as_guessed, as_number, as_whole, leading_zero

BAD = object()  # stands for a value that has been reported and must not be looked at again


def build(cls: type, mapping: Any, path: str, problems: list[Problem]) -> Any:
    """Builds a dataclass from a mapping.

    Args:
        cls: The frozen dataclass. Its `expand(mapping)` classmethod, where it has one, fills in
            named presets first; its `check()` method yields problems between keys.
        mapping: What the YAML says at `path`.
        path: Dotted path of the section, empty at the root.
        problems: Receives every mistake found.

    Returns:
        An instance, or `BAD` when one of its values is missing or unusable. The config is good when no
        problem was found, not when there is an instance.
    """
    if not isinstance(mapping, Mapping):
        problems.append(Problem(path, mapping, "must be a section", "write keys under it, one a line"))
        return BAD
    if hasattr(cls, "expand"):
        mapping = cls.expand(mapping, path, problems)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in mapping:
        if key not in fields:
            problems.append(_unknown_key(key, mapping[key], path, list(fields)))
    hints = _hints(cls)
    values = {}
    for name, field in fields.items():
        where = f"{path}.{name}" if path else name
        if name in mapping:
            raw = mapping[name]
        elif field.default is not dataclasses.MISSING:
            raw = field.default
        elif field.default_factory is not dataclasses.MISSING:
            raw = field.default_factory()
        else:
            problems.append(Problem(where, Problem.ABSENT, "is required", _required_mend(where, field)))
            continue
        values[name] = _build_value(hints[name], field, raw, where, problems)
    if len(values) < len(fields) or any(value is BAD for value in values.values()):
        return BAD
    # An unknown key or a broken rule is no reason to keep quiet about the rules that come after.
    instance = cls(**values)
    if hasattr(instance, "check"):
        problems.extend(instance.check(path))
    return instance


def to_mapping(config: Any) -> Any:
    """The inverse of `build`: dataclasses → plain mappings, lists and scalars, ready for YAML."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_mapping(getattr(config, f.name)) for f in dataclasses.fields(config)}
    return [to_mapping(item) for item in config] if isinstance(config, tuple) else config


def _build_value(hint: Any, field: Any, raw: Any, path: str, problems: list[Problem]) -> Any:
    optional, hint = _split_optional(hint)
    if raw is None and optional:
        return None
    if isinstance(raw, Written) and raw == "None":
        mend = "write null" if optional else "leave the key out"
        mend += ', or "None" with its quotes if that is the text' if hint is str else ""
        problems.append(Problem(path, raw, "is Python's word", mend))
        return BAD
    registry = field.metadata.get("registry")
    if registry is not None:
        return _build_registered(registry, raw, path, problems)
    value = _convert(hint, raw, path, problems)
    if value is not BAD:
        broken = list(broken_rules(path, value, field.metadata))
        problems.extend(broken)
        return BAD if broken else value
    return BAD


def _build_registered(registry: Registry, raw: Any, path: str, problems: list[Problem]) -> Any:
    if isinstance(raw, str) and not (isinstance(raw, Written) and as_number(raw) is not None):
        raw = {"type": raw}  # `schedule: cosine` is short for `schedule: {type: cosine}`
    if not isinstance(raw, Mapping):
        problems.append(Problem(path, raw, "must be a section with a `type`", _one_of(registry.names())))
        return BAD
    kind = raw.get("type", registry.default)
    if kind is None:
        problems.append(Problem(f"{path}.type", Problem.ABSENT, "is required", _one_of(registry.names())))
        return BAD
    cls = registry.get(kind)
    if cls is None:
        near = difflib.get_close_matches(str(kind), registry.names(), 1, 0.5)
        mend = f"did you mean {near[0]}?" if near else _one_of(registry.names())
        problems.append(Problem(f"{path}.type", kind, f"is not a known {registry.section}", mend))
        return BAD
    return build(cls, {**raw, "type": kind}, path, problems)


def _convert(hint: Any, raw: Any, path: str, problems: list[Problem]) -> Any:
    if typing.get_origin(hint) is tuple:
        items = raw if isinstance(raw, (list, tuple)) else [raw]
        inner = typing.get_args(hint)[0]
        values = [_convert(inner, item, f"{path}[{i}]", problems) for i, item in enumerate(items)]
        return BAD if any(v is BAD for v in values) else tuple(values)
    if typing.get_origin(hint) is dict and isinstance(raw, Mapping):
        if typing.get_args(hint)[1] is Any:
            return as_guessed(dict(raw))
        inner = typing.get_args(hint)[1]
        named = {str(k): _convert(inner, value, f"{path}.{k}", problems) for k, value in raw.items()}
        return BAD if any(value is BAD for value in named.values()) else named
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), raw, path, problems)
    read = _READ.get(hint)
    value = None if read is None else read(raw)
    if value is not None:
        return value
    rule, mend = {
        int: ("must be a whole number", _whole_mend(raw)),
        float: ("must be a finite number", "write for example 0.001 or 1e-3"),
        bool: ("must be true or false", "write true or false without quotes"),
        str: ("must be text", "put it in quotes"),
        dict: ("must be a section", "write keys under it, one a line"),
    }[typing.get_origin(hint) or hint]
    problems.append(Problem(path, raw, rule, mend))
    return BAD


def _read_whole(raw: Any) -> int | None:
    if isinstance(raw, Written):
        return as_whole(raw)
    if isinstance(raw, float) and raw.is_integer():
        raw = int(raw)
    return raw if type(raw) is int and abs(raw) <= LARGEST else None


def _read_number(raw: Any) -> float | None:
    if isinstance(raw, str):
        return as_number(raw.strip())
    if isinstance(raw, bool) or not isinstance(raw, (int, float)):
        return None
    try:
        return float(raw) if math.isfinite(raw) else None
    except OverflowError:
        return None


def _read_bool(raw: Any) -> bool | None:
    return as_bool(raw) if isinstance(raw, Written) else raw if isinstance(raw, bool) else None


def _read_text(raw: Any) -> str | None:
    """The characters that were written; but true and false without quotes are more likely in the wrong place."""
    if isinstance(raw, Written) and raw.lower() in ("true", "false"):
        return None
    return str(raw) if isinstance(raw, (str, int, float)) and not isinstance(raw, bool) else None


_READ: dict[Any, Any] = {int: _read_whole, float: _read_number, bool: _read_bool, str: _read_text}


def _whole_mend(raw: Any) -> str:
    if isinstance(raw, str) and leading_zero(raw) and as_whole(raw.lstrip("+-0_") or "0") is not None:
        return "write it without the zeros in front, which mean octal to some and nothing to others"
    digits = raw.lstrip("+-").replace("_", "") if isinstance(raw, str) else ""
    if type(raw) is int or (isinstance(raw, Written) and digits.isdigit()):
        return f"write at most {LARGEST}"
    return "write digits without quotes"


def _split_optional(hint: Any) -> tuple[bool, Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return True, rest[0]
    return False, hint


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _unknown_key(key: Any, value: Any, path: str, known: list[str]) -> Problem:
    where = f"{path}.{key}" if path else str(key)
    near = difflib.get_close_matches(str(key), known, 1, 0.6)
    prefix = f"{path}." if path else ""
    mend = f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(known)}"
    return Problem(where, value, "is not a known key", mend)


def _required_mend(path: str, field: Any) -> str:
    registry = field.metadata.get("registry")
    if registry is not None:
        return f"write {path}.type as one of {', '.join(registry.names())}"
    return f"write {path}: {field.metadata.get('help') or '...'}"


def _one_of(names: list[str]) -> str:
    return f"write one of {', '.join(names)}"
