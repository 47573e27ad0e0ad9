"""Trainings that begin with a checkpoint: its weights, other tokens, a new head, frozen parts."""

import json

import numpy as np
import pytest
import yaml

import tfllm
from tests.convert.golden import tensors_of, write_checkpoint
from tests.tiny import tiny_lm, weights, write_tokenizer
from tfllm.commands.main import main
from tfllm.config import ConfigError, config_from_mapping
from tfllm.convert.assignment import assign_weights
from tfllm.convert.checkpoint import load_model, read_checkpoint
from tfllm.convert.errors import ConvertError
from tfllm.experiment import make_model, make_tokenizer
from tfllm.experiment.model_source import expand, start_from_source

EMBEDDINGS = "decoder/token_embedding/embeddings"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A checkpoint with a tokenizer of 290 tokens and a model of as many."""
    folder = tmp_path_factory.mktemp("source") / "theirs"
    tiny_lm().save(folder, to="huggingface")
    return folder


def config_of(source, **sections):
    model = {"type": "pretrained", "source": str(source), **sections.pop("model", {})}
    data = {"train": "python_docs", "seq_len": 16}
    return config_from_mapping(
        {"name": "ft", "model": model, "data": data, "generation": {"max_new_tokens": 8}, **sections}
    )


def started(config):
    config = expand(config)
    model = make_model(config, make_tokenizer(config, None).vocab_size, training=True)
    start_from_source(config, model)
    return model


def test_the_model_and_tokenizer_are_those_of_the_source(source):
    config = expand(config_of(source, model={"dropout": 0.1}))
    assert (config.model.type, config.model.source, config.model.dropout) == ("decoder", str(source), 0.1)
    assert config.model.vocab_size == 290
    assert expand(config) is config
    there = tfllm.load(source)
    assert make_tokenizer(config, None).fingerprint == there.tokenizer.fingerprint
    mine, theirs = weights(started(config)), weights(there.model)
    assert mine.keys() == theirs.keys()
    for path, value in theirs.items():
        np.testing.assert_array_equal(mine[path], value, path)


def test_a_run_is_a_source_too(source, tmp_path):
    there = tfllm.load(source)
    there.save(tmp_path / "run")
    mine = weights(started(config_of(tmp_path / "run")))
    for path, value in weights(there.model).items():
        np.testing.assert_array_equal(mine[path], value, path)


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_begin_as_the_mean_of_the_others(tied, tmp_path):
    tiny_lm(tie_embeddings=tied).save(tmp_path / "theirs", to="huggingface")
    tokenizer = {"type": "pretrained", "extra_special_tokens": ["<|a|>", "<|user|>", "<|b|>"]}
    config = config_of(tmp_path / "theirs", tokenizer=tokenizer)
    assert make_tokenizer(config, None).special_tokens["<|b|>"] == 291
    mine, theirs = weights(started(config)), weights(tfllm.load(tmp_path / "theirs").model)
    paths = {EMBEDDINGS: 0} if tied else {EMBEDDINGS: 0, "decoder/output_projection/kernel": 1}
    for path, axis in paths.items():
        table, before = np.moveaxis(mine[path], axis, 0), np.moveaxis(theirs[path], axis, 0)
        assert len(table) == 292
        np.testing.assert_array_equal(table[:290], before)
        np.testing.assert_allclose(table[290:], np.tile(before.mean(0), [2, 1]), atol=1e-7)


def test_fewer_tokens_keep_the_first(source, tmp_path):
    model = {"vocab_size": 280}
    config = config_of(source, model=model, tokenizer="byte")
    mine = weights(started(config))
    np.testing.assert_array_equal(mine[EMBEDDINGS], weights(tfllm.load(source).model)[EMBEDDINGS][:280])
    with pytest.raises(
        ConfigError, match=r"model.vocab_size=280 is less than the 290 tokens of the tokenizer"
    ):
        started(config_of(source, model=model))


def test_a_new_head_is_drawn_and_the_rest_is_read(source, tmp_path):
    there = weights(tfllm.load(source).model)
    mine = weights(started(config_of(source, model={"new_head": True})))
    assert mine.keys() - there.keys() == {"decoder/output_projection/kernel"}
    assert 0.01 < np.std(mine["decoder/output_projection/kernel"]) < 0.03
    tiny_lm(tie_embeddings=False).save(tmp_path / "untied", to="huggingface")
    there = weights(tfllm.load(tmp_path / "untied").model)
    mine = weights(started(config_of(tmp_path / "untied", model={"new_head": True})))
    for path, value in there.items():
        assert np.array_equal(mine[path], value) == (path != "decoder/output_projection/kernel"), path


def test_learned_positions_may_be_cut_and_not_made_up(tmp_path):
    folder = write_checkpoint(tmp_path / "there", "gpt2")
    write_tokenizer(folder)
    mine = weights(started(config_of(folder, model={"max_seq_len": 20})))
    expected = tensors_of("gpt2")["transformer.wpe.weight"][:20]
    np.testing.assert_array_equal(mine["decoder/position_embedding/embeddings"], expected)
    with pytest.raises(ConfigError, match=r"model.max_seq_len=200 exceeds the 128 positions"):
        expand(config_of(folder, model={"max_seq_len": 200}))


def test_what_does_not_fit_leaves_the_model_as_it_was(tmp_path):
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "llama", "llama"))
    other = load_model(read_checkpoint(write_checkpoint(tmp_path / "other", "llama_yarn")))
    before = weights(other)
    with pytest.raises(ConvertError, match=r"the model has no|model wants"):
        assign_weights(checkpoint, other)
    for path, value in weights(other).items():
        np.testing.assert_array_equal(value, before[path], path)


def test_bad_sections(tmp_path, source):
    with pytest.raises(ConfigError, match=r"model.source is required"):
        config_from_mapping({"name": "x", "model": "pretrained", "data": {"train": "python_docs"}})
    with pytest.raises(ConfigError, match=r"tokenizer.source is required"):
        config_from_mapping({"name": "x", "tokenizer": "pretrained", "data": {"train": "python_docs"}})
    with pytest.raises(ConfigError, match=r"data.seq_len=128 exceeds model.max_seq_len=64"):
        expand(config_of(source, data={"train": "python_docs", "seq_len": 128}))
    with pytest.raises(ConfigError, match=r"holds neither config\.yaml, as runs do, nor config\.json"):
        expand(config_of(tmp_path))
    with pytest.raises(ConfigError, match=r"nowhere does not exist; give the folder of a run"):
        expand(config_of(tmp_path / "nowhere"))
    folder = write_checkpoint(tmp_path / "bert", "bert")
    write_tokenizer(folder)
    with pytest.raises(ConfigError, match=r"model.type=encoder is not trained by task.type=causal_lm"):
        expand(config_of(folder))


@pytest.mark.slow
def test_fine_tuning_by_command(source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = {
        "name": "ft",
        "model": {"type": "pretrained", "source": str(source)},
        "tokenizer": {"type": "pretrained", "extra_special_tokens": ["<|new|>"]},
        "data": {
            "train": {"type": "text_files", "path": "*.txt", "split_on": "."},
            "seq_len": 16,
            "packing": True,
        },
        "optimizer": {"groups": [{"pattern": "*/block_00/*", "freeze": True}]},
        "training": {"steps": 2, "global_batch_size": 2, "jit_compile": False, "log_every": 1},
        "generation": {"max_new_tokens": 8, "prompts": ["the"]},
    }
    (tmp_path / "a.txt").write_text(
        ". ".join(f"the quick fox {number} over the dog" for number in range(200))
    )
    (tmp_path / "ft.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", "ft.yaml"]) == 0
    tuned, there = tfllm.load("runs/ft", jit_compile=False), weights(tfllm.load(source).model)
    for path, value in weights(tuned.model).items():
        if path != EMBEDDINGS:
            assert np.array_equal(value, there[path]) == ("/block_00/" in path), path
    assert "<|new|>" in tuned.tokenizer.special_tokens
    assert main(["train", "ft.yaml", "training.steps=3"]) == 0  # goes on: the run is the same
    lines = [json.loads(line) for line in (tmp_path / "runs/ft/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2, 3]
    assert main(["convert", "runs/ft", "ft-hf", "--to", "huggingface"]) == 0
    assert main(["generate", "ft-hf", "the", "--chat", "--no-jit", "--max-new-tokens", "2"]) == 0
    assert main(["evaluate", str(source)]) == 2
    assert "data.validation is required: this model came without text" in capsys.readouterr().err
    assert main(["export", str(source)]) == 1
    assert "say with --to DIR where the export goes" in capsys.readouterr().err
