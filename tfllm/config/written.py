"""YAML text → mappings in which every value is still as it was written.

YAML guesses types: `2024_01_05` is the number 20240105 to it, `012` ten, `yes` true, `1e3` a text. What a key holds is
known here, so a guess is never needed: a value without quotes is kept as `Written`, and `build` reads it as what its
key declares.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

import yaml

from tfllm.config.errors import Problem

LARGEST = 2**63 - 1  # TensorFlow's and NumPy's whole numbers
_DEEPEST, _MOST = 50, 100_000  # sections in sections, and values in all: aliases can multiply without end
_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_BASED = re.compile(r"([-+]?)(0x[0-9a-f]+|0o[0-7]+|0b[01]+)")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?")
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = tuple(_TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp", "value"))


class Written(str):
    """A value as it stands in YAML without quotes."""

    __slots__ = ()


def read_yaml(text: str, problems: list[Problem], *, path: str = "") -> Any:
    """Reads one YAML document: dicts, lists, None, str where quoted, `Written` elsewhere.

    Args:
        text: The document.
        problems: Receives what cannot be read as a value, with its path.
        path: Of the document in the config, where it is not the whole.

    Raises:
        yaml.YAMLError: when it is not YAML at all, or nested too deep.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        return None if node is None else _Reader(problems).value(node, path, 0)
    except RecursionError:
        raise yaml.YAMLError(f"nested more than {_DEEPEST} levels deep") from None
    finally:
        loader.dispose()


def end_of_yaml(text: str) -> int:
    """Where the value in a text ends; what follows is a comment."""
    node = yaml.compose(text, _Loader)
    return 0 if node is None else node.end_mark.index


class _Loader(yaml.SafeLoader):
    """Only its nodes are used: no constructor ever runs."""


class _Reader:
    """Nodes → values.

    Args:
        problems: Receives what cannot be read.
    """

    def __init__(self, problems: list[Problem]):
        self.problems, self.count = problems, 0

    def value(self, node: yaml.Node, path: str, depth: int) -> Any:
        self.count += 1
        if depth > _DEEPEST or self.count > _MOST:
            words = (
                f"nested more than {_DEEPEST} levels deep"
                if depth > _DEEPEST
                else f"more than {_MOST:,} values"
            )
            raise yaml.MarkedYAMLError(problem=words, problem_mark=node.start_mark)
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.value(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag in (*_PLAIN_TAGS, _TAG + "merge"):
            return self._scalar(node)
        tag = node.tag.replace(_TAG, "!!")
        rule, mend = "is a kind of value that no key takes", "leave the tag out"
        self.problems.append(Problem(path or "the file", tag, rule, mend))
        return None

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag == _TAG + "null" and node.style is None:
            return None
        typed = node.tag not in (_TAG + "str", _TAG + "null")  # `!!int "5"` has quotes, and yet is a number
        return Written(node.value) if node.style is None or typed else node.value

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, value in node.value:
            mark = f"line {key.start_mark.line + 1}, column {key.start_mark.column + 1}"
            if not isinstance(key, yaml.ScalarNode):
                rule, mend = "has a list or a section for a key", "write a name before the colon"
                self.problems.append(Problem(path or mark, Problem.ABSENT, rule, mend))
                continue
            name = str(key.value)
            where = f"{path}.{name}" if path else name
            if key.tag == _TAG + "merge":
                for part in self._merged(value, where, depth):
                    merged = {**part, **merged}  # of several the first counts
            elif name in mapping:
                rule = f"is written twice ({mark})"
                self.problems.append(Problem(where, Problem.ABSENT, rule, "keep one of the two"))
            else:
                mapping[name] = self.value(value, where, depth + 1)
        return {**merged, **mapping}

    def _merged(self, node: yaml.Node, path: str, depth: int) -> list[dict[str, Any]]:
        """What `<<` names: a section, or a list of them."""
        found = self.value(node, path, depth + 1)
        parts = found if isinstance(found, list) else [found]
        if not all(isinstance(part, dict) for part in parts):
            self.problems.append(Problem(path, found, "must name a section", "write for example <<: *name"))
            return []
        return parts


def as_bool(text: str) -> bool | None:
    """What an unquoted value says as YAML 1.1 reads it, or None."""
    return _BOOLS.get(text.lower())


def as_whole(text: str) -> int | None:
    """The whole number that an unquoted value is, as `1000`, `1_000`, `1e3` or `0x3e8`, or None."""
    text = _without_underscores(text)
    based = _BASED.fullmatch(text)
    if based:
        return _bounded(int(based[1] + based[2], 0)) if len(text) < 80 else None
    if _WHOLE.fullmatch(text):
        return _bounded(int(text)) if len(text) < 40 else None
    number = as_number(text)
    if number is None or not number.is_integer() or leading_zero(text):
        return None
    return _bounded(int(Decimal(text)))


def _without_underscores(text: str) -> str:
    """As Python has it, they stand between digits only."""
    return re.sub(r"(?<=[0-9])_(?=[0-9])", "", text.lower())


def leading_zero(text: str) -> bool:
    """Whether it is such as 012, ten to YAML 1.1 and twelve to everybody else."""
    return re.match(r"[-+]?0[0-9_]", text) is not None


def as_number(text: str) -> float | None:
    """The finite number that an unquoted value is, or None."""
    text = _without_underscores(text)
    number = float(text) if len(text) < 400 and _NUMBER.fullmatch(text) else math.inf
    return number if math.isfinite(number) else None


def as_guessed(value: Any) -> Any:
    """What stands where nothing is declared, such as the arguments of somebody else's model: numbers and true and
    false become such."""
    if isinstance(value, dict):
        return {key: as_guessed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_guessed(item) for item in value]
    if not isinstance(value, Written) or leading_zero(value):
        return str(value) if isinstance(value, str) else value
    for read in (as_bool, _plain_whole, as_number):
        found = read(value)
        if found is not None:
            return found
    return str(value)


def _plain_whole(text: str) -> int | None:
    return as_whole(text) if "e" not in text.lower() or "x" in text.lower() else None


def _bounded(number: int) -> int | None:
    return number if abs(number) <= LARGEST else None


class _Dumper(yaml.SafeDumper):
    """Puts every text in quotes that would be a number or a word of YAML without them."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    guessed = text == "None" or not isinstance(as_guessed(Written(text)), str)
    return dumper.represent_scalar(_TAG + "str", text, style="'" if guessed else None)


_Dumper.add_representer(str, _represent_text)


def yaml_text(mapping: Any) -> str:
    """Writes plain mappings, lists and scalars; `read_yaml` and `build` read them back equal."""
    return yaml.dump(mapping, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
