"""AdaLoRA: ranks fall by their schedule where they are worth least, whatever the batch is divided into."""

import json
import signal

import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tests.marks import mostly_slow
from tests.peft.test_lora import MODELS, logits
from tests.tiny import randomized, tiny_lm
from tests.training.toy import DIVISIONS, assert_same_training, batches, run_steps, toy_model, toy_step
from tfllm.commands.main import main
from tfllm.config import ConfigError, config_from_mapping
from tfllm.peft.adalora import Adalora
from tfllm.peft.lora import copy_merged
from tfllm.peft.targets import low_rank_layers
from tfllm.training.display import Display

STEPS = 12
METHOD = {"initial_rank": 3, "target_rank": 1, "alpha": 6.0, "fall_begin": 0.2, "fall_end": 0.7}


def shaken(model, seed=0):
    rng = np.random.default_rng(seed)
    for layer in low_rank_layers(model).values():
        for variable in (layer.a, layer.e, layer.b):
            variable.assign(rng.normal(0, 0.5, variable.shape))
    return model


@pytest.mark.parametrize("name", MODELS)
def test_it_adds_nothing_at_first_and_all_of_it_can_be_merged(name):
    model = randomized(MODELS[name]())
    before = logits(model)
    Adalora(**METHOD).attach(model)
    assert (logits(model) == before).all()
    trained = {variable.path.rpartition("/")[2] for variable in model.trainable_variables}
    assert trained == {"a", "e", "b"}
    unmerged = logits(shaken(model))
    for layer in low_rank_layers(model).values():
        layer.e.assign([0.0, *layer.e.numpy()[1:]])
        assert layer.pair()[1].shape[0] == 2
    assert np.abs(unmerged - before).max() > 0.1
    plain = MODELS[name]()
    plain.build()
    copy_merged(model, plain)
    np.testing.assert_allclose(logits(plain), logits(model), rtol=1e-5, atol=1e-5)


def test_the_budget_falls_with_the_cube_of_what_is_to_come():
    model = toy_model()
    Adalora(**METHOD, targets=["query", "value", "up"]).attach(model)
    ranks = Adalora(**METHOD, targets=["query", "value", "up"]).allocator(model, 100)
    found = [int(ranks.budget(tf.constant(update))) for update in range(101)]
    expected = [3 + int(6 * (1 - min(max((t - 20) / 50, 0), 1)) ** 3) for t in range(101)]
    assert found == expected and found[0] == 9 and found[-1] == 3


def adapted(dropout=0.1, **arguments):
    model = toy_model(dropout=dropout, **arguments)
    Adalora(**METHOD, dropout=0.2).attach(model)
    return shaken(model)


def allocate(model):
    return Adalora(**METHOD).allocator(model, STEPS)


def taken(**division):
    step = toy_step(make=adapted, allocate=allocate, optimizer="adamw", learning_rate=0.02, **division)
    return run_steps(step, STEPS, batches(0, STEPS)), step.model


@pytest.fixture(scope="module")
def undivided():
    return taken()


@pytest.mark.parametrize("name", mostly_slow(["4 microbatches", "2 x 2"], ["4 microbatches"]))
def test_divided_with_dropout_it_trains_as_one_batch(name, undivided):
    assert_same_training(taken(**DIVISIONS[name])[0], undivided[0], rtol=1e-5, atol=1e-5)


def test_the_ranks_at_the_end_are_those_asked_for_and_differ(undivided):
    _, model = undivided
    ranks = [int(np.count_nonzero(layer.e.numpy())) for layer in low_rank_layers(model).values()]
    assert sum(ranks) == len(ranks) and len(set(ranks)) > 1
    for layer in low_rank_layers(model).values():
        assert ((layer.e.numpy() != 0) == (layer.kept.numpy() == 1)).all()


def test_what_goes_is_what_was_worth_least():
    """The paper's equations and its algorithm, written once more in NumPy."""
    step = toy_step(make=adapted, allocate=allocate, learning_rate=0.05, dropout=0.0, clip_norm=None)
    model, seen = step.model, []
    layers = list(low_rank_layers(model).values())
    changes = step.after_update

    def spied(update, gradients, read):
        # As TrainStep calls it: behind the update, with the gradients that it applied.
        seen.append(
            {
                v.path: (read(v).numpy(), gradients[v.path].numpy())
                for each in layers
                for v in (each.a, each.e, each.b)
            }
        )
        return changes(update, gradients, read)

    step.after_update = spied
    mean, doubt = {}, {}
    for update, features in enumerate(batches(0, STEPS), 1):
        step(features)
        scores = []
        for layer in layers:
            parts = {}
            for name in "aeb":
                path = getattr(layer, name).path
                weight, gradient = seen[-1][path]
                now = np.abs(weight * gradient)
                mean[path] = 0.85 * mean.get(path, 0) + 0.15 * now
                doubt[path] = 0.85 * doubt.get(path, 0) + 0.15 * np.abs(now - mean[path])
                parts[name] = mean[path] * doubt[path]
            scores.append(parts["e"] + parts["a"].mean(0) + parts["b"].mean(1))
        begin, end = int(0.2 * STEPS), int(0.7 * STEPS)
        if begin < update <= end:
            left = len(layers) + int(2 * len(layers) * (1 - (update - begin) / (end - begin)) ** 3)
            best = np.sort(np.concatenate(scores))[::-1][:left]
            kept = [score >= best[-1] for score in scores]
        for number, layer in enumerate(layers):
            expected = kept[number] if update > begin else np.ones(3, bool)
            assert (layer.kept.numpy() == expected).all(), update
            if update > begin:
                assert ((layer.e.numpy() != 0) == expected).all(), update


YAML = """
name: tuned
model: {{type: pretrained, source: {base}}}
peft: {{type: adalora, initial_rank: 4, target_rank: 2, alpha: 8, dropout: 0.1}}
data: {{train: {{type: text_files, path: "{folder}/text.txt", split_on: "\\n\\n"}}, seq_len: 16, num_workers: 1}}
optimizer: {{type: adamw, learning_rate: 0.02, weight_decay: 0.0, schedule: constant}}
training: {{steps: 12, global_batch_size: 4, jit_compile: false, log_every: 1}}
generation: {{max_new_tokens: 4, temperature: 0.0}}
"""


@pytest.mark.slow
def test_a_run_that_stopped_as_ranks_fell_goes_on_as_if_it_had_not(tmp_path, monkeypatch):
    tiny_lm().save(tmp_path / "base")
    rng = np.random.default_rng(0)
    words = ["fox", "dog", "lazy", "quick", "brown"]
    (tmp_path / "text.txt").write_text("\n\n".join(" ".join(rng.choice(words, 12)) for _ in range(60)))
    (tmp_path / "config.yaml").write_text(YAML.format(base=tmp_path / "base", folder=tmp_path))

    progress, stops = Display.progress, []

    def stopping(self, state):
        if state.step == 5 and not stops:  # as ranks fall
            stops.append(state.step)
            signal.raise_signal(signal.SIGTERM)
        return progress(self, state)

    command = ["train", str(tmp_path / "config.yaml"), "--run-dir"]
    assert main([*command, str(tmp_path / "run")]) == 0
    monkeypatch.setattr(Display, "progress", stopping)
    assert main([*command, str(tmp_path / "stopped")]) == 143
    assert main([*command, str(tmp_path / "stopped")]) == 0 and stops == [5]
    lm, other = (tfllm.load(tmp_path / name, jit_compile=False) for name in ("run", "stopped"))
    for one, two in zip(lm.model.variables, other.model.variables, strict=True):
        assert (one.numpy() == two.numpy()).all(), one.path
    ranks = [int(np.count_nonzero(each.e.numpy())) for each in low_rank_layers(lm.model).values()]
    assert sum(ranks) == 2 * len(ranks)
    ids = lm.features("the quick fox")
    lm.save(tmp_path / "adapter", to="peft")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and set(config["rank_pattern"].values()) | {config["r"]} == set(
        ranks
    ) - {0}
    again = tfllm.load(tmp_path / "adapter", jit_compile=False)
    np.testing.assert_allclose(again.model(ids)["logits"], lm.model(ids)["logits"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"target_rank": 20}, r"peft.target_rank=20 exceeds peft.initial_rank=12, from which ranks fall"),
        ({"fall_begin": 0.8}, r"peft.fall_end=0.7 must be more than peft.fall_begin=0.8"),
        ({"targets": []}, r"peft.targets=\[\] names nothing"),
    ],
)
def test_what_does_not_go_together_is_told(keys, words):
    mapping = {
        "name": "x",
        "model": {"type": "pretrained", "source": "a"},
        "peft": {"type": "adalora", **keys},
    }
    with pytest.raises(ConfigError, match=words):
        config_from_mapping(mapping, for_training=False)
