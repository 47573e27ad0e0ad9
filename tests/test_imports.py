"""Who may know whom: DESIGN.md's rules between packages, read off the import statements."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tfllm"

_ROOMS = {
    *("config", "layers", "models", "tokenizers", "data", "tasks", "peft", "training", "evaluation"),
    *("generation", "export", "convert", "analysis"),
}
# package, or one module of it: the other tfllm modules it may import. An entry covers what lies below it.
ALLOWED = {
    "version": set(),
    "json_text": set(),
    "config": set(),
    "layers": set(),
    "models": {"layers"},
    "tokenizers": {"config"},
    "data": {"config", "tokenizers"},
    "tasks": {"tokenizers", "evaluation.metrics"},
    "peft": {"layers"},
    "training": set(),
    "evaluation": set(),
    "generation": {"layers"},
    "export": {"generation", "layers.pooling", "tokenizers"},
    "convert": {"layers", "models"},
    "analysis": set(),
    "experiment": _ROOMS,
    "experiment.run_folder": {"config"},
    "language_model": {*_ROOMS, "experiment"},
}
EVERYBODY = {"version", "json_text"}
OUTSIDE = {"config": {"yaml"}, "layers": {"tensorflow", "keras"}}  # and nothing else


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path, within):
    """Yields the full names a module imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{within} imports relatively"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if _is_module(whole) else node.module


def built(path):
    """Yields the addresses that a module's registrations name: `package.module:name`, for `experiment` to import."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "register":
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            yield ast.literal_eval(given["builds"])


def _top_level(module):
    """Names that a module defines or hands on."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)


BUILT = [(module, address) for module, path in modules() for address in built(path) if address is not None]


def _is_module(name):
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def covers(allowed, name):
    return any(name == entry or name.startswith(f"{entry}.") for entry in allowed)


def _entry(module):
    """What of ALLOWED a module goes by: the module itself, or its package."""
    return module if module in ALLOWED else module.split(".")[0]


def violations(module, names):
    package, entry = module.split(".")[0], _entry(module)
    for name in names:
        top, _, rest = name.partition(".")
        if top != "tfllm":
            books = OUTSIDE.get(package)
            wrong = books is not None and top not in books and top not in sys.stdlib_module_names
        else:
            allowed = ALLOWED.get(entry)
            wrong = (
                (covers({"commands"}, rest) and package not in ("commands", "__main__"))
                or (covers({"training"}, rest) and package == "serving")
                or (allowed is not None and rest != "" and not covers({entry, *allowed, *EVERYBODY}, rest))
            )
        if wrong:
            yield name


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: getattr(value, "name", value))
def test_a_module_knows_only_whom_it_may(module, path):
    names = list(imports(path, module))
    assert not list(violations(module, names))


@pytest.mark.parametrize(("module", "address"), BUILT)
def test_a_section_is_built_by_what_is_there(module, address):
    """A registration imports nothing; `experiment` imports what it names."""
    assert module.split(".")[0] == "config"
    name, _, attribute = address.partition(":")
    assert _is_module(name)
    assert attribute in _top_level(name)
    assert not list(violations("experiment.build", [name]))


def test_every_registration_names_its_builder():
    assert len(BUILT) > 20


def test_the_rules_can_fail():
    assert list(violations("layers.attention", ["numpy"])) == ["numpy"]
    assert list(violations("layers.attention", ["tfllm.config"])) == ["tfllm.config"]
    assert list(violations("config.build", ["tensorflow"])) == ["tensorflow"]
    assert list(violations("training.trainer", ["tfllm.models.decoder"])) == ["tfllm.models.decoder"]
    assert list(violations("tasks.causal_lm", ["tfllm.evaluation.evaluator"])) == [
        "tfllm.evaluation.evaluator"
    ]
    assert list(violations("experiment", ["tfllm.commands.main"])) == ["tfllm.commands.main"]
    assert list(violations("experiment.run", ["tfllm.language_model.load"])) == ["tfllm.language_model.load"]
    assert list(violations("experiment.run_folder", ["tfllm.data.store"])) == ["tfllm.data.store"]
    assert not list(violations("layers.attention", ["tensorflow", "tfllm.layers.masks", "math"]))
    assert not list(violations("tasks.causal_lm", ["tfllm.evaluation.metrics", "numpy"]))
    assert not list(violations("experiment.run", ["tfllm.experiment.setup", "tfllm.training.trainer"]))
