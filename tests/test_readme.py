"""Every command, every line of Python and every config of the README works, on tiny substitutes."""

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
from tests.promises.runs import documents
from tfllm.commands.main import main
from tfllm.config import config_from_mapping, load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

# Lines that no test runs, and why.
NOT_RUN = {
    "bash scripts/quickstart.sh": "8 minutes; its commands are those of this page, and its config is built below",
    "bash scripts/test.sh": "it is what runs this test",
    "TFLLM_PEERS=~/peers/bin/python python -m pytest tests/convert": "needs PyTorch and transformers",
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


def lines(language):
    """The lines of all blocks of a language, without comments."""
    blocks = [text for kind, text in BLOCKS if kind == language]
    found = [re.sub(r"\s+#.*$", "", line).strip() for text in blocks for line in text.splitlines()]
    return [line for line in found if line and not line.startswith("#")]


COMMANDS = [line for line in lines("bash") if line.startswith("tfllm ")]
SCRIPTS = [line for line in lines("bash") if line.startswith("python scripts/")]


def overrides(values):
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def smaller(words):
    """What is added to a command so that it takes seconds."""
    command, source = words[0], words[1]
    if command in ("prepare", "train"):
        keys = TUNED if "finetune" in source else SMALL
        more = DIVERGES if "--replay" in words else {}
        values = {**{key: SMALL[key] for key in keys}, **more}
        if "finetune" in source:  # of fewer blocks
            values["optimizer.groups"] = [{"pattern": "decoder/block_0*", "freeze": True}]
        return overrides(values)
    return ["--no-jit", "--max-new-tokens", "4"] if command == "generate" else []


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the README speaks of; commands run in it one after the other, as a reader would."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copy(ROOT / "README.md", folder)
    (folder / "texts" / "more").mkdir(parents=True)
    text = "\n".join(["The assert statement", *documents(3)])
    for i in range(40):
        (folder / "texts" / "more" / f"{i}.txt").write_text(f"{i} {text}")
    stand_ins.write_all(folder)
    mine = next(text for kind, text in BLOCKS if kind == "yaml" and "name: mine" in text)
    (folder / "mine.yaml").write_text(mine, encoding="utf-8")
    return folder


@pytest.fixture
def inside(place, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.chdir(place)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return place


def test_every_line_is_run_or_says_why_not():
    known = {*COMMANDS, *SCRIPTS, *NOT_RUN}
    assert [line for line in lines("bash") if line not in known] == []
    assert [line for line in NOT_RUN if line not in lines("bash")] == []
    assert {kind for kind, _ in BLOCKS} == {"", "bash", "python", "yaml"}


def test_the_commands_work_one_after_the_other(inside, capfd):
    for line in COMMANDS:
        words = shlex.split(line)[1:]
        if words[0] == "train":  # a line that only shows another key or option of a run trains another one
            shutil.rmtree(inside / "runs" / "mine", ignore_errors=True)
        words += smaller(words)
        if "--replay" in words:
            failing = [word for word in words if word != "--replay"]
            assert main(failing) == 1, capfd.readouterr()
        capfd.readouterr()
        status = main(words)
        out, err = capfd.readouterr()
        assert status == 0, f"{line}\n{out}\n{err}"
        assert out.strip() and "Traceback" not in err, line
    for path in ("runs/quickstart/export/1/saved_model.pb", "quickstart-hf/model.safetensors"):
        assert (inside / path).exists(), path
    assert list((inside / "served" / "model").glob("*/saved_model.pb"))


def test_the_python_works(inside, monkeypatch):
    """Run as a reader would, behind the commands; without XLA, which takes longer than all the rest."""
    monkeypatch.setattr(tfllm, "load", functools.partial(tfllm.load, jit_compile=False))
    if not (inside / "runs" / "quickstart").exists():
        assert main(["train", "configs/quickstart.yaml", *smaller(["train", "quickstart"])]) == 0
    shutil.rmtree(inside / "smollm2", ignore_errors=True)
    names: dict = {}
    shown = []
    for block in [text for kind, text in BLOCKS if kind == "python"]:
        for statement in block.splitlines():
            code = statement.partition("  # ")[0].strip()
            if not code:
                continue
            try:
                shown.append((code, eval(code, names)))
            except SyntaxError:
                exec(code, names)
    values = dict(shown)
    assert isinstance(values['lm.generate("The assert statement", max_new_tokens=40, temperature=0.0)'], str)
    logits = next(value for code, value in shown if code.startswith("lm.model("))
    assert logits.dtype == tf.float32 and logits.shape.rank == 3
    scores = next(value for code, value in shown if code.startswith("attention_maps"))
    assert scores.ndim == 2 and scores.shape[0] == scores.shape[1]
    vectors = next(value for code, value in shown if ".embed(" in code)
    assert vectors.shape[0] == 2
    assert (inside / "smollm2" / "config.yaml").exists()
    assert (inside / "smollm2-hf" / "config.json").exists()


def test_the_configs_are_built(inside):
    for text in [text for kind, text in BLOCKS if kind == "yaml"]:
        mapping = yaml.safe_load(text)
        config = config_from_mapping({"name": "part", "data": {"train": "python_docs"}, **mapping})
        for section in mapping:
            assert getattr(config, section) is not None


@pytest.mark.parametrize("line", SCRIPTS)
def test_a_script_takes_the_options_shown(line, monkeypatch, capfd):
    """What they do is tested elsewhere, or takes minutes: here, that they start and know their options."""
    words = shlex.split(line)[1:]
    monkeypatch.setattr(sys, "argv", [words[0], "--help"])
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    assert end.value.code == 0
    out = capfd.readouterr().out
    assert "usage:" in out
    for option in words[1:]:
        assert not option.startswith("--") or option in out


def test_the_scripts_of_the_page_that_are_commands_say_what_the_commands_say(monkeypatch, capfd):
    for name in re.findall(r"`python scripts/(\w+\.py) …`|`scripts/(\w+_run\.py)`", README):
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

    config = expand(load_config(path))
    size = config.model.vocab_size or 300
    model = experiment.make_model(config, size, training=True)
    assert model.count_params() > 0
    assert path.name in path.read_text(encoding="utf-8").partition("\nname:")[0]
