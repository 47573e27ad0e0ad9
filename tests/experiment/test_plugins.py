"""A plug-in with a source, an optimizer and a model: trained, gone on with, evaluated, generated from, exported."""

import json

import numpy as np
import pytest
import tensorflow as tf
import yaml

import tfllm as package
from tests.config.minimal import minimal
from tests.plugin_package.forget import TYPES, forget, forgotten
from tfllm.commands.main import main
from tfllm.config import ConfigError, config_from_mapping
from tfllm.config.model import MODELS
from tfllm.experiment.build import build, check_builders
from tfllm.training.metrics_log import read_metrics

CONFIG = {
    "name": "plugged",
    "plugins": [TYPES],
    "tokenizer": "byte",
    "model": {"type": "fading", "hidden_dim": 12, "memory": 0.6},
    "data": {
        "train": {"type": "doors", "count": 60},
        "validation_fraction": 0.2,
        "seq_len": 32,
        "packing": False,
        "num_workers": 1,
    },
    "optimizer": {"type": "signs", "beta": 0.8, "learning_rate": 0.01, "schedule": "constant"},
    "training": {"steps": 6, "global_batch_size": 4, "jit_compile": False, "log_every": 2},
    "generation": {"max_new_tokens": 8, "prompts": ["The"], "temperature": 0.0},
}


@pytest.fixture(scope="module", autouse=True)
def _as_in_a_fresh_process():
    with forgotten():
        yield


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugged") / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    return path


def command(*words):
    """Runs a command as a fresh process would, which must find the plug-in by itself."""
    forget()
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def run(config_file):
    """A run that was stopped after four of its six steps, and gone on with."""
    folder = config_file.parent / "run"
    assert command("train", config_file, "--run-dir", folder, "training.steps=4") == 0
    assert command("train", config_file, "--run-dir", folder) == 0
    return folder


def test_it_trains_and_goes_on_as_if_nothing_had_happened(run, config_file):
    whole = config_file.parent / "whole"
    assert command("train", config_file, "--run-dir", whole) == 0
    ends = [
        [e for e in read_metrics(f / "metrics.jsonl") if e["split"] == "validation"][-1] for f in (run, whole)
    ]
    assert ends[0]["step"] == ends[1]["step"] == 6
    assert abs(ends[0]["loss"] - ends[1]["loss"]) < 1e-6
    first = next(e for e in read_metrics(run / "metrics.jsonl") if e["split"] == "validation")
    assert ends[0]["loss"] < first["loss"]
    forget()
    lm = package.load(run, jit_compile=False)
    assert (type(lm.model).__name__, lm.model.memory, lm.step) == ("Fading", 0.6, 6)
    names = tf.train.load_checkpoint(str(run / "checkpoints" / "step_00000006" / "variables"))
    assert any(name.startswith("optimizer/signs/mean/") for name in names.get_variable_to_shape_map())


def test_it_is_evaluated(run, capfd):
    assert command("evaluate", run) == 0
    answer = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert answer["own_rows"] is True and answer["loss"] > 0
    assert command("evaluate", run, "data.train.count=40") == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["own_rows"] is False


def test_it_generates_with_its_cache_what_it_does_without(run, capfd):
    assert command("generate", run, "The 1th", "--max-new-tokens", "6", "--temperature", "0", "--no-jit") == 0
    said = capfd.readouterr().out.rstrip("\n")
    forget()
    lm = package.load(run, jit_compile=False)
    ids = lm.encode("The 1th")
    for _ in range(6):
        logits = lm.model({"token_ids": tf.constant([ids])})["logits"][0, -1, : lm.tokenizer.vocab_size]
        ids.append(int(np.argmax(logits)))
    assert said == "The 1th" + lm.tokenizer.decode(ids[len(lm.encode("The 1th")) :])
    # Rows of several lengths get what each gets alone.
    prompts = ["T", "The 12th door opens"]
    together = lm.generate(prompts, max_new_tokens=5, temperature=0.0)
    assert together == [lm.generate(prompt, max_new_tokens=5, temperature=0.0) for prompt in prompts]


def test_it_is_exported_and_answers_alike(run, capfd):
    assert command("export", run) == 0
    folder = capfd.readouterr().out.splitlines()[-1]
    forget()
    served = tf.saved_model.load(folder).signatures["generate"](
        prompt=tf.constant(["The 1th"]),
        max_new_tokens=tf.constant([6]),
        temperature=tf.constant([0.0]),
        top_k=tf.constant([0]),
        top_p=tf.constant([1.0]),
        repetition_penalty=tf.constant([1.0]),
        seed=tf.constant([0]),
    )["text"]
    lm = package.load(run, jit_compile=False)
    assert served.numpy()[0].decode() == lm.generate("The 1th", max_new_tokens=6, temperature=0.0, top_p=1.0)


def test_it_is_inspected_as_far_as_its_sizes_are_known(run, config_file, capfd):
    assert command("inspect", run) == 0
    words = capfd.readouterr().out
    assert "activations are not known beforehand" in words and "generation: key-value cache" not in words
    assert command("train", config_file, "--run-dir", config_file.parent / "dry", "--dry-run") == 0
    assert "peak memory" in capfd.readouterr().out


def test_it_starts_from_another_run(run, config_file, capfd):
    started = config_file.parent / "started"
    overrides = [f"model.source={run}", "training.steps=1"]
    assert command("train", config_file, "--run-dir", started, *overrides) == 0
    first = next(e for e in read_metrics(started / "metrics.jsonl") if e["split"] == "validation")
    last = [e for e in read_metrics(run / "metrics.jsonl") if e["split"] == "validation"][-1]
    assert abs(first["loss"] - last["loss"]) < 1e-5


def test_what_it_cannot_do_is_said(config_file, capfd):
    folder = config_file.parent / "not"
    assert command("train", config_file, "--run-dir", folder, "data.packing=true") == 2
    words = "data.packing=true puts several documents in a row, which model.type=fading cannot tell apart"
    assert words in capfd.readouterr().err
    assert command("train", config_file, "--run-dir", folder, "training.remat=block") == 2
    assert "training.remat=block is nothing that model.type=fading can do" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("builds", "words"),
    [
        ("no_such_package.models:Fading", "cannot be imported (No module named 'no_such_package')"),
        (
            "tests.plugin_package.models:Fading",
            "cannot be imported (No module named 'tests.plugin_package.models')",
        ),
        ("tests.plugin_package.model:Fadin", "tests.plugin_package.model has no Fadin"),
    ],
)
def test_a_builder_that_is_not_there_is_said_at_the_start(config_file, capfd, monkeypatch, builds, words):
    forget()
    config = config_from_mapping(CONFIG)
    monkeypatch.setattr(MODELS.get("fading"), "builds", builds)
    with pytest.raises(ConfigError) as caught:
        check_builders(config)
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"model.type=fading is built by {builds}, and ")
    assert words in str(problem)
    assert "; correct `builds` where tests.plugin_package.types registers the type" in str(problem)
    with pytest.raises(ConfigError, match=r"model\.type=fading is built by"):
        build(config.model, at="model")
    folder = config_file.parent / "unbuilt"
    assert main(["train", str(config_file), "--run-dir", str(folder)]) == 2
    assert words in capfd.readouterr().err
    assert not folder.exists()


def test_a_run_whose_plug_in_is_gone_says_so(run, tmp_path, capfd):
    text = (run / "config.yaml").read_text(encoding="utf-8")
    (tmp_path / "config.yaml").write_text(text.replace(TYPES, "tests.plugin_package.gone"), encoding="utf-8")
    assert command("generate", tmp_path, "The") == 2
    err = capfd.readouterr().err
    assert "plugins[0]=tests.plugin_package.gone is not a module that Python finds" in err
    assert "not a known" not in err


def test_a_section_without_a_builder_is_said():
    with pytest.raises(ConfigError, match=r"model\.type=pretrained has no builder"):
        config = config_from_mapping(minimal(model={"type": "pretrained", "source": "a"}), for_training=False)
        build(config.model, at="model")
