"""The key `plugins`: modules that register types, imported before the rest is read; and what is wrong with them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.config.minimal import minimal
from tests.plugin_package.forget import TYPES, forgotten
from tfllm.config import ConfigError, config_from_mapping, load_config, save_config
from tfllm.config.data import SOURCES

ROOT = Path(__file__).parents[2]
DOORS = {"train": {"type": "doors", "count": 7}, "seq_len": 64}
GOOD = """
import dataclasses
from tfllm.config.data import SOURCES

@SOURCES.register({name!r}, builds={builds!r})
@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    type: str = {name!r}
"""


@pytest.fixture(autouse=True)
def _as_in_a_fresh_process():
    with forgotten():
        yield


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that Python finds, once a name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    written = []

    def write(name, text):
        path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(name)

    yield write
    for name in [*written, *(name.split(".")[0] for name in written)]:
        sys.modules.pop(name, None)


def problem_of(plugins, **sections):
    with pytest.raises(ConfigError) as caught:
        config_from_mapping(minimal(plugins=plugins, **sections))
    (problem,) = caught.value.problems
    return str(problem)


def test_its_types_are_known_where_it_is_named():
    with pytest.raises(ConfigError, match=r"data\.train\.type=doors is not a known data source"):
        config_from_mapping(minimal(data=DOORS))
    config = config_from_mapping(minimal(plugins=[TYPES], data=DOORS))
    assert (config.data.train.count, config.plugins) == (7, (TYPES,))


def test_a_config_that_was_written_brings_it_again(tmp_path):
    path = tmp_path / "config.yaml"
    save_config(config_from_mapping(minimal(plugins=TYPES, data=DOORS)), path)
    with forgotten():
        assert load_config(path).data.train.count == 7


def test_an_override_may_name_it():
    assert config_from_mapping(minimal(data=DOORS), [f"plugins=[{TYPES}]"]).data.train.type == "doors"


def test_its_keys_are_checked_with_all_others():
    with pytest.raises(ConfigError) as caught:
        data = {"train": {"type": "doors", "count": 0, "colour": "red"}, "seq_len": 64}
        config_from_mapping(minimal(plugins=[TYPES], data=data, seed=-1))
    assert {p.path for p in caught.value.problems} == {"seed", "data.train.count", "data.train.colour"}


@pytest.mark.parametrize(
    ("plugins", "path"),
    [
        (5, "plugins=5"),
        (None, "plugins=null"),
        ({"a": 1}, "plugins={'a': 1}"),
        ([True], "plugins[0]=true"),
        (["json", ["a"]], "plugins[1]=['a']"),
        ("my plugin", "plugins=my plugin"),
        ("plugin.py/", "plugins=plugin.py/"),
        (["../plugin"], "plugins[0]=../plugin"),
        (["a..b"], "plugins[0]=a..b"),
        ([".a"], "plugins[0]=.a"),
        ([""], "plugins[0]="),
        (["a.class"], "plugins[0]=a.class"),
    ],
)
def test_what_is_no_list_of_dotted_names_is_refused(plugins, path):
    words = "is not the dotted name of a module; write for example my_package.my_types"
    assert problem_of(plugins) == f"{path} {words}"


@pytest.mark.parametrize("name", ["no_such_plugin", "no_such_plugin.types", "tests.plugin_package.nothing"])
def test_a_missing_module_is_said(name):
    mend = "install its package, or add the folder that holds it to PYTHONPATH"
    assert problem_of([name]) == f"plugins[0]={name} is not a module that Python finds; {mend}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("def", "SyntaxError: "),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("raise RuntimeError('a\\nb')", "RuntimeError: a,"),
    ],
)
def test_one_that_raises_while_it_is_imported_is_said(module, text, words):
    module("broken_plugin", text)
    said = problem_of(["broken_plugin"])
    assert said.startswith(f"plugins[0]=broken_plugin cannot be imported ({words}")
    assert "broken_plugin.py" in said and "line" in said
    assert said.endswith("; mend it there; python -c 'import broken_plugin' shows all of it")


def test_all_that_are_wrong_are_said_at_once(module):
    module("broken_plugin", "1 / 0")
    with pytest.raises(ConfigError) as caught:
        config_from_mapping(minimal(plugins=["broken_plugin", "no_such_plugin", 5], seed="x"))
    assert [p.path for p in caught.value.problems] == ["plugins[0]", "plugins[1]", "plugins[2]"]


def test_a_name_that_is_taken_is_said(module):
    module("taking_plugin", GOOD.format(name="jsonl", builds="a:B"))
    said = problem_of(["taking_plugin"])
    assert said == (
        "plugins[0]=taking_plugin cannot be taken: its data source type 'jsonl' is registered twice, by"
        " tfllm.config.data and by taking_plugin; give one of them another name"
    )
    assert SOURCES.get("jsonl").builds == "tfllm.data.sources:JsonlSource"


def test_a_type_without_what_all_have_is_said(module):
    text = GOOD.format(name="plain", builds="a:B").replace("data import SOURCES", "model import MODELS")
    module("plain_plugin", text.replace("SOURCES", "MODELS"))
    assert "lacks source, vocab_size, max_seq_len, kind, which every model has" in problem_of(
        ["plain_plugin"]
    )


def test_one_that_failed_leaves_nothing_and_may_be_mended(module):
    module("slow_plugin", GOOD.format(name="one", builds="a:B") + "\n1 / 0")
    assert "ZeroDivisionError" in problem_of(["slow_plugin"])
    assert SOURCES.get("one") is None
    module("slow_plugin", GOOD.format(name="one", builds="a:B") + "\n# mended")
    config = config_from_mapping(minimal(plugins=["slow_plugin"], data={"train": "one", "seq_len": 64}))
    assert config.data.train.type == "one"


def test_a_package_whose_module_failed_keeps_its_own_types(module):
    module("whole.__init__", GOOD.format(name="of_the_package", builds="a:B"))
    module("whole.part", GOOD.format(name="of_the_part", builds="a:B") + "\n1 / 0")
    assert "ZeroDivisionError" in problem_of(["whole.part"])
    assert SOURCES.get("of_the_package") is not None and SOURCES.get("of_the_part") is None


def test_it_brings_no_tensorflow_and_is_told_of_by_the_commands(tmp_path):
    (tmp_path / "c.yaml").write_text(
        f"name: a\nplugins: [{TYPES}]\ndata: {{train: {{type: doors, count: x}}}}\n"
    )
    (tmp_path / "d.yaml").write_text("name: a\nplugins: [no_such_plugin]\ndata: {train: doors}\n")
    program = (
        "import sys; from tfllm.commands.main import main\n"
        "assert main(['train', sys.argv[1]]) == 2 == main(['inspect', sys.argv[2]])\n"
        "heavy = {'tensorflow', 'keras'} & set(sys.modules)\nassert not heavy, heavy"
    )
    files = [str(tmp_path / name) for name in ("c.yaml", "d.yaml")]
    done = subprocess.run([sys.executable, "-c", program, *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "data.train.count=x must be a whole number" in done.stderr
    assert "plugins[0]=no_such_plugin is not a module that Python finds" in done.stderr
