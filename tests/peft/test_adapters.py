"""Adapters and frozen parts: nothing at first, little to train, exact in every division."""

import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tests.peft.test_lora import IDS, MODELS, logits
from tests.tiny import randomized, tiny_lm
from tests.training.toy import assert_same_training, batches, run_steps, toy_model, toy_step
from tfllm.commands.main import main
from tfllm.config import config_from_mapping
from tfllm.convert.errors import ConvertError
from tfllm.experiment import make_model
from tfllm.language_model import LanguageModel
from tfllm.peft.adapters import Adapters
from tfllm.peft.errors import PeftError
from tfllm.peft.freeze import Freeze
from tfllm.peft.targets import low_rank_layers, projections


def shaken(model):
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if "/adapter/" in variable.path:
            variable.assign(rng.normal(0, 0.3, variable.shape))
    return model


@pytest.mark.parametrize("name", MODELS)
def test_adapters_add_nothing_at_first_and_stand_behind_every_branch(name):
    model = randomized(MODELS[name]())
    before = logits(model)
    Adapters(width=3).attach(model)
    assert (logits(model) == before).all()
    behind = [path for path in projections(model) if path in low_rank_layers(model)]
    assert behind == [p for p in projections(model) if "/block_" in p and p.endswith(("/output", "/down"))]
    trained = {variable.path for variable in model.trainable_variables}
    parts = ("down", "down_bias", "up", "up_bias")
    assert trained == {f"{path}/adapter/{part}" for path in behind for part in parts}
    assert np.abs(logits(shaken(model)) - before).max() > 0.1


def test_an_adapter_is_that_of_its_paper():
    model = randomized(MODELS["gpt"]())
    Adapters(width=3, activation="relu").attach(model)
    shaken(model)
    down = model.blocks[1].feed_forward.down
    x = np.random.default_rng(0).normal(size=[2, 5, 64]).astype(np.float32)
    kernel, bias, *inner = (v.numpy().astype(np.float64) for v in down.variables)
    first, first_bias, second, second_bias = inner
    made = x @ kernel + bias
    expected = made + np.maximum(made @ first + first_bias, 0) @ second + second_bias
    np.testing.assert_allclose(down(tf.constant(x)), expected, rtol=1e-4, atol=1e-4)


def adapted_toy(**arguments):
    model = toy_model(dropout=0.1)
    Adapters(width=2).attach(model)
    return shaken(model)


def halved_toy(**arguments):
    model = toy_model(dropout=0.1)
    Freeze(first_layers=1).attach(model)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("make", [adapted_toy, halved_toy])
def test_divided_they_train_as_one_batch_and_leave_the_rest(make):
    def taken(**division):
        step = toy_step(make=make, optimizer="adamw", learning_rate=0.02, **division)
        frozen = {v.path: v.numpy() for v in step.model.variables if not v.trainable}
        assert frozen
        result = run_steps(step, 6, batches(0, 6))
        assert all((v.numpy() == frozen[v.path]).all() for v in step.model.variables if not v.trainable)
        return result

    assert_same_training(taken(replicas=2, num_microbatches=2), taken(), rtol=1e-5, atol=1e-5)


def test_the_first_layers_are_frozen_and_what_patterns_name():
    model = randomized(MODELS["encoder_decoder"]())
    Freeze(first_layers=1, patterns=["*final_norm*"], train=["*/query/*"]).attach(model)
    trained = {variable.path for variable in model.trainable_variables}
    assert not any("embedding" in path or "final_norm" in path for path in trained)
    assert {path for path in trained if "/block_00/" in path} == {
        variable.path
        for variable in model.variables
        if "/block_00/" in variable.path and "/query/" in variable.path
    }
    later = [v.path for v in model.variables if "/decoder/block_01/" in v.path]
    assert later and set(later) <= trained


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"first_layers": 3}, "peft.first_layers=3 exceeds the 2 blocks of the model; write at most 2"),
        (
            {"patterns": ["nothing*"]},
            r"peft.patterns=nothing\* matches no variable; there are for example decoder/",
        ),
        ({"patterns": ["*"]}, "peft.type=freeze leaves nothing to train"),
    ],
)
def test_what_cannot_be_frozen_is_told(keys, words):
    model = MODELS["decoder"]()
    model.build()
    with pytest.raises(PeftError, match=words):
        Freeze(**keys).attach(model)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A model with adapters, saved."""
    folder = tmp_path_factory.mktemp("adapters")
    base = tiny_lm()
    mapping = {
        "name": "tuned",
        "model": {
            "num_layers": 2,
            "hidden_dim": 16,
            "num_heads": 4,
            "num_kv_heads": 2,
            "max_seq_len": 64,
            "source": "base",
        },
        "peft": {"type": "adapters", "width": 3},
        "data": {"seq_len": 32},
        "generation": {"max_new_tokens": 8, "temperature": 0.0},
    }
    config = config_from_mapping(mapping, for_training=False)
    model = shaken(make_model(config, base.tokenizer.vocab_size))
    lm = LanguageModel(model, base.tokenizer, config, jit_compile=False)
    lm.save(folder / "tuned")
    return folder, lm


def test_adapters_are_kept_and_are_no_sum(tuned):
    folder, lm = tuned
    again = tfllm.load(folder / "tuned", jit_compile=False)
    ids = {"token_ids": IDS}
    assert (again.model(ids)["logits"].numpy() == lm.model(ids)["logits"].numpy()).all()
    assert again.merged() is again
    with pytest.raises(
        ConvertError, match=r"peft\.type=adapters put layers into the model that transformers has no"
    ):
        again.save(folder / "no", to="huggingface")
    with pytest.raises(
        ConvertError, match=r"it was tuned with peft\.type=adapters; save it as huggingface or tfllm"
    ):
        again.save(folder / "no", to="peft")
    with pytest.raises(
        ConvertError, match=r"tuned with peft\.type=adapters, whose layers nothing takes the place of"
    ):
        again.use_adapter(None)


@pytest.mark.slow
def test_adapters_are_served_and_gone_on_from(tuned, capfd):
    folder, lm = tuned
    texts = [f"the quick brown fox {n} jumps over the lazy dog" for n in range(60)]
    (folder / "text.txt").write_text("\n\n".join(texts))
    yaml = (
        "name: on\nmodel: {type: pretrained, source: '%s'}\npeft: {type: adapters, width: 3}\n"
        "data: {train: {type: text_files, path: '%s', split_on: \"\\n\\n\"}, seq_len: 16, num_workers: 1}\n"
        "optimizer: {type: adamw, learning_rate: 1e-12, schedule: constant}\n"
        "training: {steps: 1, global_batch_size: 2, jit_compile: false}\ngeneration: {max_new_tokens: 4}\n"
    )
    (folder / "on.yaml").write_text(yaml % (folder / "tuned", folder / "text.txt"))
    command = ["train", str(folder / "on.yaml"), "--run-dir"]
    assert main([*command, str(folder / "on")]) == 0
    tiny_lm().save(folder / "plain")  # which has none yet
    assert main([*command, str(folder / "first"), f"model.source={folder / 'plain'}"]) == 0
    on = tfllm.load(folder / "on", jit_compile=False)
    ids = {"token_ids": IDS}
    np.testing.assert_allclose(on.model(ids)["logits"], lm.model(ids)["logits"], rtol=1e-4, atol=1e-4)
    capfd.readouterr()
    assert main([*command, str(folder / "lost"), "peft=null"]) == 2
    assert "peft lacks the layers that" in capfd.readouterr().err
    assert main(["export", str(folder / "tuned"), "--to", str(folder / "export")]) == 0
    served = tf.saved_model.load(str(next((folder / "export").iterdir())))
    written = served.signatures["serving_default"](prompt=tf.constant(["the quick"]))
    assert written["text"].numpy()[0].decode() == lm.generate("the quick")
