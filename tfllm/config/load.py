"""YAML files and `dotted.key=value` overrides → a checked `ExperimentConfig`, and back."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tfllm.config.build import build, to_mapping
from tfllm.config.data import SOURCES
from tfllm.config.errors import ConfigError, Problem
from tfllm.config.experiment import ExperimentConfig
from tfllm.config.plugins import import_plugins
from tfllm.config.written import end_of_yaml, read_yaml, yaml_text


def load_config(
    path: str | Path, overrides: Sequence[str] = (), *, for_training: bool = True
) -> ExperimentConfig:
    """Reads, overrides and checks a config.

    Args:
        path: A YAML file.
        overrides: `dotted.key=value` strings; values are read as YAML.
        for_training: Text to train on must be named; a model that only generates has none.

    Returns:
        The config, every default filled in.

    Raises:
        ConfigError: with every mistake found, each with its path, value, rule and mend.
    """
    problems: list[Problem] = []
    mapping = _read_yaml(Path(path), problems)
    return _checked(mapping, overrides, str(path), for_training, problems)


def config_from_mapping(
    mapping: Any,
    overrides: Sequence[str] = (),
    *,
    source: str = "the config",
    for_training: bool = True,
) -> ExperimentConfig:
    """As `load_config`, from a mapping that is already in memory."""
    return _checked(mapping, overrides, source, for_training, [])


def _checked(
    mapping: Any, overrides: Sequence[str], source: str, for_training: bool, problems: list[Problem]
) -> ExperimentConfig:
    if not isinstance(mapping, dict):
        problem = Problem("the file", mapping, "must hold sections", "see configs/")
        raise ConfigError([*problems, problem], source)
    for override in overrides:
        mapping = _with_override(mapping, override, problems)
    wrong = import_plugins(mapping.get("plugins", ()))
    if wrong:  # without the types that they have, the rest would be misjudged
        raise ConfigError([*problems, *wrong], source)
    config = build(ExperimentConfig, _with_held_out(mapping), "", problems)
    if for_training:
        problems += _training_problems(mapping, config)
    if problems:
        raise ConfigError(problems, source)
    return config


def _with_held_out(mapping: dict[str, Any]) -> dict[str, Any]:
    """A held-out text without a type is of that of the training text, and says only what differs."""
    data = mapping.get("data")
    train = data.get("train") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(train, dict) or train.get("type") in (None, "mixture"):
        return mapping
    sections = {side: data.get(side) for side in ("validation", "test")}
    told = {
        side: {**train, **section}
        for side, section in sections.items()
        if isinstance(section, dict) and "type" not in section
    }
    return {**mapping, "data": {**data, **told}}


def _training_problems(mapping: dict[str, Any], config: Any) -> list[Problem]:
    problems, data = [], mapping.get("data") or {}
    if isinstance(data, dict) and data.get("train") is None:
        mend = f"write data.train.type as one of {', '.join(SOURCES.names())}"
        problems.append(Problem("data.train", Problem.ABSENT, "is required", mend))
    return problems + list(config.check_for_training() if isinstance(config, ExperimentConfig) else ())


def save_config(config: ExperimentConfig, path: str | Path) -> None:
    """Writes the resolved config; `load_config` reads it back to an equal one.

    A process or a machine that dies here leaves the old file or the new one, whole.
    """
    path = Path(path)
    part = path.with_name(".part_config")
    with part.open("w", encoding="utf-8") as file:
        file.write(config_text(config))
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    with contextlib.suppress(OSError):  # some network file systems know no sync of a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def config_text(config: ExperimentConfig) -> str:
    """The resolved config as YAML."""
    return yaml_text(to_mapping(config))


def _read_yaml(path: Path, problems: list[Problem]) -> Any:
    try:
        return read_yaml(path.read_text(encoding="utf-8"), problems)
    except FileNotFoundError:
        near = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        mend = f"there are {', '.join(near[:5])}" if near else "give the path of a YAML file"
        raise ConfigError([Problem(str(path), Problem.ABSENT, "does not exist", mend)], str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        rule = f"cannot be read ({error})"
        mend = "give a readable UTF-8 YAML file"
        raise ConfigError([Problem(str(path), Problem.ABSENT, rule, mend)], str(path)) from None
    except yaml.YAMLError as error:
        raise ConfigError([_yaml_problem(error)], str(path)) from None


def _yaml_problem(error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "the file"
    words = getattr(error, "problem", None) or str(error).splitlines()[0]
    mend = "check indentation, quotes and colons there"
    if "\\t" in words:
        mend = "write spaces, not tabs"
    elif "undefined alias" in words or words.startswith("expected alphabetic or numeric character"):
        mend = 'put a text that begins with * or & in quotes, as "*.txt"'
    elif "another document" in words or "single document" in words:
        mend = "keep one document; remove the lines that are ---"
    elif isinstance(error, yaml.reader.ReaderError):
        mend = "save the file as UTF-8 text, without control characters"
    return Problem(where, Problem.ABSENT, f"is not YAML ({words})", mend)


def _with_override(mapping: dict[str, Any], override: str, problems: list[Problem]) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    keys = key.split(".")
    if not equals or not all(keys):
        mend = "write for example optimizer.learning_rate=3e-4"
        problems.append(Problem(override, Problem.ABSENT, "is not an override", mend))
        return mapping
    if "[" in key or any(each.isdigit() for each in keys):
        whole = key.partition("[")[0] if "[" in key else ".".join(itertools.takewhile(_is_name, keys))
        mend = f"write the whole list, {whole}=[...], or change it in the YAML file"
        problems.append(Problem(override, Problem.ABSENT, "names one of a list", mend))
        return mapping
    try:
        broken: list[Problem] = []
        value = read_yaml(text, broken, path=key)
        rest = text[end_of_yaml(text) :].strip()
    except yaml.YAMLError:
        problems.append(Problem(key, text, "is not a YAML value", _quoted(key, text)))
        return mapping
    if rest:
        broken.append(Problem(key, text, "has a comment to YAML from the # on", _quoted(key, text)))
    problems += broken
    return mapping if broken else _assign(mapping, keys, value)


def _is_name(key: str) -> bool:
    return not key.isdigit()


def _quoted(key: str, text: str) -> str:
    example = shlex.quote(f"{key}={json.dumps(text, ensure_ascii=False)}")
    return f"put it in quotes inside the shell's: {example}" if len(example) < 100 else "put it in quotes"


def _assign(mapping: dict[str, Any], keys: list[str], value: Any) -> dict[str, Any]:
    first, rest = keys[0], keys[1:]
    if not rest:
        return {**mapping, first: value}
    inner = mapping.get(first)
    if isinstance(inner, str):
        inner = {"type": inner}  # the short form of a registered section
    return {**mapping, first: _assign(inner if isinstance(inner, dict) else {}, rest, value)}
