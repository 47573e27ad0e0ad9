"""Every command, every line of Python and every config of the README and the guides works, on tiny substitutes."""

import contextlib
import functools
import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import tensorflow as tf
import yaml

import tfllm
from tests import stand_ins
from tests.pages import PAGES, ROOT, blocks, lines
from tests.promises.runs import documents
from tfllm.commands.main import main
from tfllm.config import config_from_mapping, load_config

# The guides take long; every command of the front door is run each time.
each_page = pytest.mark.parametrize(
    "page", [page if page == "README.md" else pytest.param(page, marks=pytest.mark.slow) for page in PAGES]
)

# Lines that no test runs, and why.
NOT_RUN = {
    "bash scripts/quickstart.sh": "8 minutes; its commands are those of these pages, and its config is built below",
    "bash scripts/test.sh": "it is what runs this test",
    "TFLLM_PEERS=~/peers/bin/python python -m pytest tests/convert": "needs PyTorch and transformers",
    '.venv/bin/pip install -e ".[notebook]"': "it installs; the notebooks run in tests/notebooks",
    ".venv/bin/jupyter lab notebooks/01_first_look.ipynb": "it waits for a reader; see tests/notebooks",
}
# What the commands and the Python of a page leave behind.
WRITTEN = {
    "README.md": ["smollm2-transformers/config.json"],
    "scripts/README.md": [
        "runs/quickstart/export/1/saved_model.pb",
        "quickstart-transformers/model.safetensors",
    ],
    "tfllm/convert/README.md": [
        "smollm2/config.yaml",
        "smollm2-hf/config.json",
        "quickstart-hf/model.safetensors",
    ],
    "tfllm/export/README.md": ["runs/quickstart/export/1/saved_model.pb"],
}
SMALL = {
    "data.train": {"type": "text_files", "path": "texts/**/*.txt"},
    "data.seq_len": 64,
    "tokenizer.vocab_size": 300,
    "model.num_layers": 2,
    "model.hidden_dim": 16,
    "model.num_heads": 4,
    "training.steps": 2,
    "training.global_batch_size": 2,
    "training.microbatch_size": None,
    "training.jit_compile": False,
    "generation.max_new_tokens": 4,
    "optimizer.schedule.warmup_steps": 0,
}
DIVERGES = {
    "optimizer.learning_rate": 1e30,
    "optimizer.clip_norm": None,
    "optimizer.type": "sgd",
    "training.steps": 4,
}
# The keys that keep a training small; a tuned model keeps its shape.
TUNED = [key for key in SMALL if not key.startswith(("model.", "tokenizer."))]
# What the Python of the pages gives, by how a line begins.
GIVEN = {
    'lm.generate("The assert statement"': lambda value: isinstance(value, str),
    'lm.generate("What is the capital of France?"': lambda value: isinstance(value, str),
    "lm.model(": lambda value: value.dtype == tf.float32 and value.shape.rank == 3,
    "attention_maps(": lambda value: value.ndim == 2 and value.shape[0] == value.shape[1],
    'tfllm.load("all-MiniLM-L6-v2").embed(': lambda value: value.shape[0] == 2,
    "served.signatures[": lambda value: value.dtype == tf.string and value.shape == [1],
}


BASH = dict.fromkeys(
    line for text in PAGES.values() for kind, block in blocks(text) if kind == "bash" for line in lines(block)
)
SCRIPTS = [line for line in BASH if re.match(r"python (-m )?scripts[./]", line)]


def overrides(values):
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def smaller(words):
    """What is added to a command so that it takes seconds."""
    command, source = words[0], words[1]
    if command in ("prepare", "train", "inspect") and source.endswith(".yaml"):
        keys = TUNED if "finetune" in source else SMALL
        more = DIVERGES if "--replay" in words else {}
        values = {**{key: SMALL[key] for key in keys}, **more}
        if "finetune" in source:  # of fewer blocks
            values["optimizer.groups"] = [{"pattern": "decoder/block_0*", "freeze": True}]
        return overrides(values)
    return ["--no-jit", "--max-new-tokens", "4"] if command == "generate" else []


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the pages speak of; they are followed in it one after the other, as a reader would."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copy(ROOT / "README.md", folder)
    (folder / "texts" / "more").mkdir(parents=True)
    text = "\n".join(["The assert statement", *documents(3)])
    for i in range(40):
        (folder / "texts" / "more" / f"{i}.txt").write_text(f"{i} {text}")
    stand_ins.write_all(folder)
    mine = next(text for kind, text in blocks(PAGES["configs/README.md"]) if "name: mine" in text)
    (folder / "mine.yaml").write_text(mine, encoding="utf-8")
    return folder


@pytest.fixture
def inside(place, monkeypatch):
    """The folder, with a run in it; without XLA, which takes longer than all the rest."""
    import huggingface_hub.constants

    monkeypatch.chdir(place)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(tfllm, "load", functools.partial(tfllm.load, jit_compile=False))
    if not (place / "runs" / "quickstart").exists():
        words = ["train", "configs/quickstart.yaml"]
        assert main([*words, *smaller(words)]) == 0
    return place


def test_every_line_is_run_or_says_why_not():
    known = {*SCRIPTS, *NOT_RUN}
    assert [line for line in BASH if not line.startswith("tfllm ") and line not in known] == []
    assert [line for line in NOT_RUN if line not in BASH] == []
    assert {kind for text in PAGES.values() for kind, _ in blocks(text)} == {"", "bash", "python", "yaml"}


@each_page
def test_a_page_works_from_its_top_to_its_end(page, inside, capfd):
    for path in WRITTEN.get(page, ()):
        if not path.startswith("runs/"):
            shutil.rmtree(inside / Path(path).parts[0], ignore_errors=True)
    names: dict = {}
    for kind, text in blocks(PAGES[page]):
        if kind == "bash":
            for line in lines(text):
                if line.startswith("tfllm "):
                    _run(line, inside, capfd)
        elif kind == "python":
            for statement in text.splitlines():
                _evaluate(statement.partition("  # ")[0].strip(), names)
        elif kind == "yaml":
            _build(text)
    for path in WRITTEN.get(page, ()):
        assert (inside / path).exists(), path


def _run(line, inside, capfd):
    words = shlex.split(line)[1:]
    if words[0] == "train":  # a line that only shows another key or option of a run trains another one
        shutil.rmtree(inside / "runs" / Path(words[1]).stem, ignore_errors=True)
    words += smaller(words)
    if "--replay" in words:
        failing = [word for word in words if word != "--replay"]
        assert main(failing) == 1, capfd.readouterr()
    capfd.readouterr()
    status = main(words)
    out, err = capfd.readouterr()
    assert status == 0, f"{line}\n{out}\n{err}"
    assert out.strip() and "Traceback" not in err, line


def _evaluate(code, names):
    if not code:
        return
    try:
        value = eval(code, names)
    except SyntaxError:
        exec(code, names)
        return
    holds = [check for beginning, check in GIVEN.items() if code.startswith(beginning)]
    assert all(check(value) for check in holds), code
    assert holds or ".save(" in code, f"{code}: nobody says what it gives"


def _build(text):
    mapping = yaml.safe_load(text)
    config = config_from_mapping({"name": "part", "data": {"train": "python_docs"}, **mapping})
    for section in mapping:
        assert getattr(config, section) is not None


@pytest.mark.parametrize("beginning", GIVEN)
def test_what_is_said_of_the_python_is_said_of_some(beginning):
    assert any(f"\n{beginning}" in text for text in PAGES.values())


@pytest.mark.parametrize("line", SCRIPTS)
def test_a_script_takes_the_options_shown(line, monkeypatch, capfd):
    """What they do is tested elsewhere, or takes minutes: here, that they start and know their options."""
    words = shlex.split(line)[1:]
    as_module = words[0] == "-m"
    script, *options = words[as_module:]
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.setattr(sys, "path", [str(ROOT if as_module else ROOT / "scripts"), *sys.path])
    with pytest.raises(SystemExit) as end:
        if as_module:
            monkeypatch.delitem(sys.modules, script, raising=False)
            runpy.run_module(script, run_name="__main__")
        else:
            runpy.run_path(str(ROOT / script), run_name="__main__")
    assert end.value.code == 0
    out = capfd.readouterr().out
    assert "usage:" in out
    for option in options:
        assert not option.startswith("--") or option in out


def test_the_scripts_of_the_pages_that_are_commands_say_what_the_commands_say(monkeypatch, capfd):
    found = re.findall(r"`python scripts/(\w+\.py) …`|`scripts/(\w+_run\.py)`", "".join(PAGES.values()))
    assert len(found) == 2
    for name in found:
        script = name[0] or name[1]
        monkeypatch.setattr(sys, "argv", [script, "--help"])
        monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
        with contextlib.suppress(SystemExit):
            runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
        assert f"usage: tfllm {script.removesuffix('.py').removesuffix('_run')}" in capfd.readouterr().out


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("**/*.yaml")), ids=lambda path: path.stem)
def test_every_config_is_built(path, inside):
    """Parsed and checked, its model made out of its source, and the command at its head is about it."""
    from tfllm import experiment
    from tfllm.experiment.model_source import expand

    narrow = (
        ["peft.rank=4"] if load_config(path).peft is not None else []
    )  # as the models in their sources' place
    config = expand(load_config(path, narrow))
    size = config.model.vocab_size or 300
    model = experiment.make_model(config, size, training=True)
    assert model.count_params() > 0
    assert path.name in path.read_text(encoding="utf-8").partition("\nname:")[0]
