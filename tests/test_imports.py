"""Who may know whom: DESIGN.md's rules between packages, read off the import statements."""

import ast
import subprocess
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
    "tasks": {
        "config.template",
        "tokenizers",
        "data",
        "layers.pooling",
        "layers.stateless_random",
        "evaluation.answers",
        "evaluation.classification",
        "evaluation.metrics",
        "evaluation.predictions",
        "evaluation.regression",
        "evaluation.retrieval",
        "evaluation.tagging",
        "evaluation.texts",
    },
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
    return (name for name, _ in placed_imports(path, within))


def placed_imports(path, within):
    """Yields the same with the place of the statement: the function it stands in, TYPE_CHECKING, or neither, ""."""

    def visit(node, place):
        if isinstance(node, ast.Import):
            yield from ((alias.name, place) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{within} imports relatively"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if _is_module(whole) else node.module), place
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            place = node.name
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING":
            place = "TYPE_CHECKING"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, place)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), "")


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


# Of the rooms of tokenizers: the kinds, and what stands on them.
KINDS = {
    "tokenizer",
    "library_tokenizer",
    "byte",
    "byte_bpe",
    "wordpiece",
    "sentencepiece",
    "metaspace",
    "marian",
}
HEAVY = {"tensorflow", "tensorflow_text", "keras", "keras_nlp"}


def tokenizer_modules():
    return [(module, path) for module, path in modules() if module.split(".")[0] == "tokenizers"]


def room_violations(module, placed):
    """What a module of tokenizers must not import, of names and places."""
    room = next((room for room in ("graph", "files", "chat") if covers({f"tokenizers.{room}"}, module)), "")
    for name, place in placed:
        rest = name.removeprefix("tfllm.tokenizers.")
        if room == "graph":
            wrong = rest != name and covers({*KINDS, "files", "chat"}, rest)
        elif name.split(".")[0] in HEAVY:
            wrong = module != "tokenizers.files.keras_nlp_preset" or place == ""
        elif rest != name and covers({"graph"}, rest):
            wrong = place not in ("in_graph", "TYPE_CHECKING")
        else:
            wrong = room == "" and module != "tokenizers" and rest != name and covers({"files", "chat"}, rest)
        if wrong:
            yield name


@pytest.mark.parametrize(
    ("module", "path"), tokenizer_modules(), ids=lambda value: getattr(value, "name", value)
)
def test_the_graph_is_below_the_kinds_and_files_are_above(module, path):
    assert not list(room_violations(module, placed_imports(path, module)))


def test_the_rules_of_the_rooms_can_fail():
    kind, graph = "tokenizers.byte", "tokenizers.graph.byte"
    assert list(room_violations(kind, [("tensorflow", "in_graph")])) == ["tensorflow"]
    assert list(room_violations(kind, [("tfllm.tokenizers.graph.byte", "")])) == [
        "tfllm.tokenizers.graph.byte"
    ]
    assert list(room_violations(kind, [("tfllm.tokenizers.files.gguf", "f")])) == [
        "tfllm.tokenizers.files.gguf"
    ]
    assert list(room_violations(graph, [("tfllm.tokenizers.byte", "TYPE_CHECKING")])) == [
        "tfllm.tokenizers.byte"
    ]
    assert not list(room_violations(kind, [("tfllm.tokenizers.graph.byte", "in_graph"), ("numpy", "")]))
    assert not list(room_violations(graph, [("tensorflow", ""), ("tfllm.tokenizers.byte_runs", "")]))
    assert not list(room_violations("tokenizers", [("tfllm.tokenizers.files.folder", "")]))


def circle(imported):
    """Names that lead from one back to itself, of a mapping from name to the names that it imports; empty if none do."""
    done = set()

    def visit(name, way):
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        found = next(
            filter(None, (visit(other, [*way, name]) for other in sorted(imported.get(name, ())))), []
        )
        done.add(name)
        return found

    return next(filter(None, (visit(name, []) for name in sorted(imported))), [])


def test_no_import_among_tokenizers_leads_back():
    """Neither at the top, nor within functions, nor for type checkers only."""
    imported = {f"tfllm.{module}": set(imports(path, module)) for module, path in tokenizer_modules()}
    assert len(imported) > 50 and "tfllm.tokenizers.vocabulary" in imported["tfllm.tokenizers.graph.byte"]
    assert circle(imported) == []
    assert circle({"a": {"b"}, "b": {"c", "d"}, "d": {"b"}}) == ["b", "d", "b"]


def test_tokenizers_load_no_tensorflow_but_for_the_graph():
    names = [
        f"tfllm.{module}" for module, _ in tokenizer_modules() if not module.startswith("tokenizers.graph")
    ]
    code = f"import sys, {', '.join(names)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    tops = {name.split(".")[0] for name in loaded.stdout.split()}
    assert "tokenizers" in tops and not tops & HEAVY
