"""Write the list of all config keys into configs/README.md, from the dataclasses that read them.

    python -m scripts.config_guide

What stands above the list stays as it is. A test fails where the list is not that of the code.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts import ROOT
from tfllm.config import ExperimentConfig, Registry

GUIDE = ROOT / "configs" / "README.md"
BEGIN = "<!-- What follows is written by `python -m scripts.config_guide`. -->\n"

_KINDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}
_BOUNDS = {"minimum": "≥ {}", "above": "> {}", "maximum": "≤ {}", "below": "< {}"}
_HEAD = "| key | value | default | meaning |\n|---|---|---|---|\n"


def main() -> None:
    """Write the file."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    GUIDE.write_text(page(GUIDE), encoding="utf-8")
    print(f"wrote {GUIDE}")


def page(guide: Path) -> str:
    """Returns what a guide should be: its text up to the list, and the list of the code."""
    text, mark, _ = guide.read_text(encoding="utf-8").partition(BEGIN)
    if not mark:
        raise SystemExit(f"{guide} has no line {BEGIN.strip()!r}; put it where the list begins")
    return text + BEGIN + "\n" + "\n".join(_Guide().parts())


class _Guide:
    """Sections in the order in which they are met; what a key refers to follows the section that it is in."""

    def __init__(self) -> None:
        self._said: set[Any] = set()

    def parts(self) -> Iterator[str]:
        sections = [f for f in dataclasses.fields(ExperimentConfig) if _within(ExperimentConfig, f)]
        others = [f for f in dataclasses.fields(ExperimentConfig) if f not in sections]
        yield "## Keys of no section\n"
        left_out = [f for f in sections if f.default is None]  # of these null is a value too
        yield _table(ExperimentConfig, [*others, *left_out])
        for field in sections:
            yield from self._part(field.name, _within(ExperimentConfig, field))

    def _part(self, title: str, what: Any) -> Iterator[str]:
        if what in self._said:
            return
        self._said.add(what)
        yield f"## {title}\n"
        if isinstance(what, Registry):
            yield from self._types(what)
            classes = [what.get(name) for name in what.names()]
        else:
            yield f"{_said_of(what)}\n"
            yield _table(what, dataclasses.fields(what))
            classes = [what]
        for cls in classes:
            for field in dataclasses.fields(typing.cast(Any, cls)):
                inner = _within(cls, field)
                if inner is not None:
                    yield from self._part(_title(field, inner), inner)

    def _types(self, registry: Registry) -> Iterator[str]:
        """What all types share once, then the rest of each."""
        classes = {name: typing.cast(Any, registry.get(name)) for name in registry.names()}
        rows = {name: [_row(cls, f) for f in dataclasses.fields(cls)] for name, cls in classes.items()}
        first, *rest = rows.values()
        shared = [row for row in first if rest and all(row in other for other in rest)]
        if "".join(shared):
            yield "Of every type:\n"
            yield _HEAD + "".join(shared)
        names = [registry.default] if registry.default else []
        for name in [*names, *(name for name in classes if name not in names)]:
            default = ", the default" if name == registry.default else ""
            yield f"**`type: {name}`**{default}. {_said_of(classes[name])}\n"
            own = "".join(row for row in rows[name] if row not in shared)
            if own:
                yield _HEAD + own


def _table(cls: Any, fields: Any) -> str:
    return _HEAD + "".join(_row(cls, field) for field in fields)


def _row(cls: Any, field: Any) -> str:
    if field.name == "type":
        return ""
    meaning = field.metadata.get("help", "").replace("|", "\\|").replace("<", "&lt;")
    return f"| `{field.name}` | {_value(cls, field)} | {_default(field)} | {meaning} |\n"


def _value(cls: Any, field: Any) -> str:
    hint, metadata, inner = typing.get_type_hints(cls)[field.name], field.metadata, _within(cls, field)
    optional = type(None) in typing.get_args(hint)
    if optional:
        hint = typing.get_args(hint)[0]
    several = typing.get_origin(hint) is tuple
    if several:
        hint = typing.get_args(hint)[0]
    bounds = [
        words.format(_written(metadata[name]))
        for name, words in _BOUNDS.items()
        if metadata.get(name) is not None
    ]
    if inner is not None:
        title = _title(field, inner)
        words = f"[{title}](#{title.replace(' ', '-')})"
    elif metadata.get("choices"):
        words = ", ".join(f"`{choice}`" for choice in metadata["choices"])
    else:
        words = " ".join([_KINDS.get(hint, "section"), ", ".join(bounds)]).strip()
    return f"{'list of ' if several else ''}{words}{' or null' if optional else ''}"


def _default(field: Any) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{_written(field.default)}`"
    return "required" if field.default_factory is dataclasses.MISSING else "`{}`"


def _written(value: Any) -> str:
    """As YAML has it."""
    if isinstance(value, float):
        return f"{value:g}".replace("e-0", "e-")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "[]" if value == () else str(value)


def _within(cls: Any, field: Any) -> Any:
    """The registry or the dataclass that a key's value is of, or None."""
    if field.metadata.get("registry") is not None:
        return field.metadata["registry"]
    hint = typing.get_type_hints(cls)[field.name]
    return next((each for each in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(each)), None)


def _title(field: Any, inner: Any) -> str:
    return inner.section if isinstance(inner, Registry) else field.name


def _said_of(cls: Any) -> str:
    return " ".join((inspect.getdoc(cls) or "").split())


if __name__ == "__main__":
    main()
