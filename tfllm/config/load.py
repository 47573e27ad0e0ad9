"""YAML files and `dotted.key=value` overrides → a checked `ExperimentConfig`, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tfllm.config.build import build, to_mapping
from tfllm.config.data import SOURCES
from tfllm.config.errors import ConfigError, Problem
from tfllm.config.experiment import ExperimentConfig


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
    mapping = _read_yaml(Path(path))
    return config_from_mapping(mapping, overrides, source=str(path), for_training=for_training)


def config_from_mapping(
    mapping: Any,
    overrides: Sequence[str] = (),
    *,
    source: str = "the config",
    for_training: bool = True,
) -> ExperimentConfig:
    """As `load_config`, from a mapping that is already in memory."""
    problems: list[Problem] = []
    if not isinstance(mapping, dict):
        raise ConfigError([Problem("the file", mapping, "must hold sections", "see configs/")], source)
    for override in overrides:
        mapping = _with_override(mapping, override, problems)
    config = build(ExperimentConfig, mapping, "", problems)
    if for_training:
        problems += _training_problems(mapping, config)
    if problems:
        raise ConfigError(problems, source)
    return config


def _training_problems(mapping: dict[str, Any], config: Any) -> list[Problem]:
    problems, data = [], mapping.get("data") or {}
    if isinstance(data, dict) and data.get("train") is None:
        mend = f"write data.train.type as one of {', '.join(SOURCES.names())}"
        problems.append(Problem("data.train", Problem.ABSENT, "is required", mend))
    return problems + list(config.check_for_training() if isinstance(config, ExperimentConfig) else ())


def save_config(config: ExperimentConfig, path: str | Path) -> None:
    """Writes the resolved config; `load_config` reads it back to an equal one."""
    text = yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True)
    part = Path(path).with_name(".part_config")
    part.write_text(text, encoding="utf-8")
    part.replace(path)  # a process killed here leaves the old file or the new one


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key written twice; plain YAML would keep the last and say nothing."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} is written twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except FileNotFoundError:
        near = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        mend = f"there are {', '.join(near[:5])}" if near else "give the path of a YAML file"
        raise ConfigError([Problem(str(path), Problem.ABSENT, "does not exist", mend)], str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        rule = f"cannot be read ({error})"
        mend = "give a readable UTF-8 YAML file"
        raise ConfigError([Problem(str(path), Problem.ABSENT, rule, mend)], str(path)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "the file"
        rule = f"is not YAML ({getattr(error, 'problem', None) or error})"
        mend = "check indentation, quotes and colons there"
        raise ConfigError([Problem(where, Problem.ABSENT, rule, mend)], str(path)) from None


def _with_override(mapping: dict[str, Any], override: str, problems: list[Problem]) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        mend = "write for example optimizer.learning_rate=3e-4"
        problems.append(Problem(override, Problem.ABSENT, "is not an override", mend))
        return mapping
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        problems.append(Problem(key, text, "is not a YAML value", "put it in quotes"))
        return mapping
    return _assign(mapping, key.split("."), value)


def _assign(mapping: dict[str, Any], keys: list[str], value: Any) -> dict[str, Any]:
    first, rest = keys[0], keys[1:]
    if not rest:
        return {**mapping, first: value}
    inner = mapping.get(first)
    if isinstance(inner, str):
        inner = {"type": inner}  # the short form of a registered section
    return {**mapping, first: _assign(inner if isinstance(inner, dict) else {}, rest, value)}
