"""The room hands its names on when they are asked for."""

import ast
from pathlib import Path

import pytest

from tfllm import experiment


def test_every_name_is_handed_on():
    for name, module in experiment._PLACES.items():
        assert getattr(experiment, name).__module__ == f"tfllm.experiment.{module}"
    with pytest.raises(AttributeError, match="has no attribute 'make_modle'"):
        experiment.make_modle  # noqa: B018


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(experiment.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == {name: f"tfllm.experiment.{module}" for name, module in experiment._PLACES.items()}
