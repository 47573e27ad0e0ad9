"""Backbones of KerasHub in runs: trained, gone on with, loaded, and refused where they cannot do what is asked."""

import pytest
import yaml

import tfllm as package
from tfllm.config import load_config
from tfllm.experiment import make_model, memory_of
from tfllm.training.metrics_log import read_metrics

GPT2 = {
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 32,
    "intermediate_dim": 64,
    "max_sequence_length": 32,
    "dropout": 0.1,
}
LLAMA = {
    "num_layers": 1,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "hidden_dim": 32,
    "intermediate_dim": 64,
}


def written(config_file, folder, **model):
    config = yaml.safe_load(config_file.read_text())
    config["model"] = {"type": "keras_nlp", **model}
    config["data"]["packing"] = False
    config["generation"].pop("prompts")
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.slow
def test_a_run_is_trained_gone_on_with_and_loaded(config_file, tmp_path, tfllm):
    path = written(config_file, tmp_path, backbone="GPT2Backbone", arguments=GPT2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert tfllm("train", path, "--run-dir", whole, "training.steps=4")[0] == 0
    assert tfllm("train", path, "--run-dir", parts, "training.steps=3")[0] == 0
    assert tfllm("train", path, "--run-dir", parts, "training.steps=4")[0] == 0
    ends = [
        [e for e in read_metrics(run / "metrics.jsonl") if e["split"] == "validation"][-1]
        for run in (whole, parts)
    ]
    assert abs(ends[0]["loss"] - ends[1]["loss"]) < 1e-5
    lm = package.load(whole, jit_compile=False)
    assert lm.step == 4
    answers = lm.generate(["ban", "b"], max_new_tokens=4, temperature=0.0)
    assert answers[1] == lm.generate("b", max_new_tokens=4, temperature=0.0)


@pytest.mark.slow
def test_a_preset_is_the_start(config_file, tmp_path, tfllm):
    llama = written(config_file, tmp_path, backbone="LlamaBackbone", arguments=LLAMA)
    model = make_model(load_config(llama), 259)
    model.backbone.save_to_preset(str(tmp_path / "preset"))
    path = written(config_file, tmp_path, preset=str(tmp_path / "preset"))
    status, _, err = tfllm(
        "train", path, "--run-dir", tmp_path / "run", "training.steps=2", "training.jit_compile=true"
    )
    assert status == 0, err
    assert memory_of(load_config(path), model)["weights"] == 4 * model.count_params() > 0
    lm = package.load(tmp_path / "run", jit_compile=False)
    assert isinstance(lm.generate("ban", max_new_tokens=2, temperature=0.0), str)


def test_what_does_not_fit_is_refused(config_file, tmp_path, tfllm):
    packed = written(config_file, tmp_path, backbone="GPT2Backbone", arguments=GPT2)
    words = tfllm("train", packed, "--run-dir", tmp_path / "run", "data.packing=true")[2]
    assert "write data.packing=false" in words
    both = written(config_file, tmp_path, preset="a", backbone="b")
    assert "one of both must be given" in tfllm("train", both, "--run-dir", tmp_path / "run")[2]
    sized = written(config_file, tmp_path, backbone="GPT2Backbone", arguments={**GPT2, "vocabulary_size": 5})
    assert "is set by the tokenizer" in tfllm("train", sized, "--run-dir", tmp_path / "run")[2]
    short = written(
        config_file, tmp_path, backbone="GPT2Backbone", arguments={**GPT2, "max_sequence_length": 16}
    )
    assert "exceeds the 16" in tfllm("train", short, "--run-dir", tmp_path / "other")[2]
