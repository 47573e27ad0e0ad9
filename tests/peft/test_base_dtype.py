"""A frozen base in fewer bytes: what is multiplied, what is stored, and that a run says what its training measured."""

import json

import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tests.marks import mostly_slow
from tests.tiny import tiny_lm
from tests.training.toy import (
    DIVISIONS,
    assert_computed_again_alike,
    assert_same_training,
    batches,
    run_steps,
    toy_model,
    toy_step,
)
from tfllm.commands.main import main
from tfllm.config import config_from_mapping
from tfllm.experiment import expand, make_model, start_from_source
from tfllm.experiment.cost import memory_of
from tfllm.experiment.model_source import pretrained_tokenizer
from tfllm.experiment.reference import model_at_start
from tfllm.layers.projection import project, project_stored
from tfllm.layers.stored_kernel import Int8Kernel, KernelPolicy, floats, rounded
from tfllm.peft.adalora import Adalora
from tfllm.peft.adapters import Adapters
from tfllm.peft.errors import PeftError
from tfllm.peft.lora import Lora
from tfllm.peft.targets import projections

SMALL = ["bfloat16", "int8"]


def drawn(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(0, 1, shape), tf.float32)


def stored(kernel, dtype):
    """The matrix as it is stored, and its scale."""
    if dtype == "bfloat16":
        return tf.cast(kernel, tf.bfloat16), None
    variable = Int8Kernel(tuple(kernel.shape), name="kernel")
    variable.assign(kernel)
    return tf.convert_to_tensor(variable), tf.convert_to_tensor(variable.scale)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("dtype", SMALL)
def test_its_product_and_gradients_are_those_of_the_rounded_matrix(dtype, jit_compile):
    x, kernel, bias, weight = drawn(2, 3, 5), drawn(5, 7, seed=1), drawn(7, seed=2), drawn(2, 3, 7, seed=3)

    def taken(product):
        with tf.GradientTape() as tape:
            tape.watch([x, bias])
            total = tf.reduce_sum(product() * weight)
        return [total, *tape.gradient(total, [x, bias])]

    ours = tf.function(
        lambda: taken(lambda: project_stored(x, *stored_kernel, bias=bias)), jit_compile=jit_compile
    )
    stored_kernel = stored(kernel, dtype)
    wanted = taken(lambda: project(x, rounded(kernel, dtype), bias))
    for one, other in zip(ours(), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("compute", "near"), [("float16", 2e-3), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("dtype", SMALL)
def test_it_multiplies_in_half_precision_without_overflow(dtype, compute, near):
    x, kernel = tf.abs(drawn(1, 2, 900)) * 50.0, tf.abs(drawn(900, 3, seed=1)) * 0.01
    upstream = tf.cast(drawn(1, 2, 3, seed=2), compute)
    taken = []
    for product, given, by in (
        (project_stored, tf.cast(x, compute), stored(kernel, dtype)),
        (project, x, [rounded(kernel, dtype)]),
    ):
        with tf.GradientTape() as tape:
            tape.watch(given)
            result = product(given, *by)
        gradient = tape.gradient(result, given, tf.cast(upstream, result.dtype))
        assert result.dtype == given.dtype == gradient.dtype
        taken.append([np.asarray(each, np.float32) for each in (result, gradient)])
    for one, other in zip(*taken, strict=True):
        assert np.abs(one - other).max() < near * np.abs(other).max()


def test_bytes_hold_a_column_to_half_a_step_of_its_largest_number():
    kernel = drawn(50, 6).numpy() * 10.0 ** np.arange(-3, 3)
    kernel[:, 4] = 0.0
    variable = Int8Kernel((50, 6), name="kernel")
    variable.assign(kernel)
    value = floats(variable).numpy()
    step = np.abs(kernel).max(0) / 127
    assert (np.abs(value - kernel) <= step * 0.5001).all() and not value[:, 4].any()
    assert (value == rounded(tf.constant(kernel, tf.float32), "int8").numpy()).all()
    variable.assign(floats(variable))  # and nothing is lost a second time
    np.testing.assert_allclose(floats(variable), value, rtol=1e-6)


def tuned_toy(dtype="int8", method=None, **arguments):
    model = toy_model(
        dtype=dtype if dtype == "float32" else KernelPolicy("float32", dtype), **{"dropout": 0.1, **arguments}
    )
    (method or Lora(rank=2, alpha=4.0, dropout=0.3)).attach(model)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0, 0.3, variable.shape))
    return model


METHODS = {
    "lora": lambda: Lora(rank=2, alpha=4.0),
    "adalora": lambda: Adalora(initial_rank=3, target_rank=2, alpha=4.0),
    "adapters": lambda: Adapters(width=3),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", SMALL)
def test_matrices_of_blocks_alone_are_small_and_no_other_number_moves(method, dtype):
    model = tuned_toy(dtype, METHODS[method](), dropout=0.0, tie_embeddings=False)
    small = {path: each for path, each in projections(model).items() if "/block_" in path}
    assert len(small) == 6 and {each.kernel.dtype for each in small.values()} == {dtype}
    paths = {each.kernel.path for each in small.values()}
    assert {v.dtype for v in model.variables if v.path not in paths} == {"float32"}
    wide = tuned_toy("float32", METHODS[method](), dropout=0.0, tie_embeddings=False)
    values = {v.path: floats(v) for v in model.variables}
    assert {v.path for v in wide.variables} == values.keys()
    for variable in wide.variables:
        variable.assign(values[variable.path])
    features = {name: tf.constant(x) for name, x in next(iter(batches(0, 1).as_numpy_iterator())).items()}
    found = []
    for each in (model, wide):
        with tf.GradientTape() as tape:
            logits = each(features, training=True)["logits"]
            total = tf.reduce_sum(logits**2)
        found.append([logits, *tape.gradient(total, [v.value for v in each.trainable_variables])])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4)


def taken(**division):
    step = toy_step(make=tuned_toy, optimizer="adamw", learning_rate=0.02, **division)
    return run_steps(step, 6, batches(0, 6))


@pytest.fixture(scope="module")
def undivided():
    return taken()


@pytest.mark.parametrize("division", mostly_slow(DIVISIONS, ["2 x 2"]))
def test_divided_with_dropout_it_trains_as_one_batch(division, undivided):
    assert_same_training(taken(**DIVISIONS[division]), undivided, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("remat", ["attention", "block"])
def test_what_is_computed_again_is_the_same(remat):
    assert_computed_again_alike(tuned_toy, remat)


def test_a_matrix_that_is_stored_small_is_not_trained():
    with pytest.raises(
        PeftError, match=r"peft.train=\*query\* names .*/query/kernel, which peft.base_dtype=int8"
    ):
        tuned_toy(method=Lora(rank=2, alpha=4.0, train=["*query*"]))


YAML = """
name: tuned
model: {{type: pretrained, source: {base}}}
peft: {{type: lora, rank: 4, alpha: 8}}
data: {{train: {{type: text_files, path: "{folder}/text.txt", split_on: "\\n\\n"}}, seq_len: 16, num_workers: 1}}
optimizer: {{type: adamw, learning_rate: 0.02, weight_decay: 0.0, schedule: constant}}
training: {{steps: 12, global_batch_size: 4, jit_compile: false, log_every: 1, evaluate_every: 12}}
generation: {{max_new_tokens: 4, temperature: 0.0}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    tiny_lm().save(folder / "base")
    rng = np.random.default_rng(0)
    words = ["fox", "dog", "lazy", "quick", "brown"]
    (folder / "text.txt").write_text("\n\n".join(" ".join(rng.choice(words, 12)) for _ in range(60)))
    (folder / "config.yaml").write_text(YAML.format(base=folder / "base", folder=folder))
    for dtype in ("float32", *SMALL):
        command = ["train", str(folder / "config.yaml"), "--run-dir", str(folder / dtype)]
        assert main([*command, f"peft.base_dtype={dtype}"]) == 0
    return folder


def entries(run, split):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [entry for entry in lines if entry["split"] == split]


@pytest.mark.parametrize(("dtype", "near"), [("bfloat16", 0.03), ("int8", 0.05)])
def test_what_is_learned_is_near_what_is_learned_over_the_whole_base(dtype, near, folder):
    wide, small = ([each["loss"] for each in entries(folder / name, "train")] for name in ("float32", dtype))
    assert small[-1] < small[0] - 0.3
    assert 0.0 < max(abs(a - b) for a, b in zip(wide, small, strict=True)) < near


@pytest.mark.parametrize("dtype", SMALL)
def test_a_run_says_what_its_training_measured(dtype, folder, capfd):
    run = folder / dtype
    [*_, last] = entries(run, "validation")
    capfd.readouterr()
    assert main(["evaluate", str(run), "training.jit_compile=false"]) == 0
    [*_, again] = entries(run, "validation")
    printed = capfd.readouterr().out
    assert f"{last['loss']:.4f}" in printed or again["loss"] == pytest.approx(last["loss"], abs=1e-5), printed
    base, lm = (tfllm.load(folder / name, jit_compile=False) for name in ("base", dtype))
    theirs = {v.path: v for v in base.model.variables}
    for path, projection in projections(lm.model).items():
        if "/block_" in path:
            value = rounded(tf.convert_to_tensor(theirs[f"{path}/kernel"]), dtype).numpy()
            assert (projection.kernel.numpy() == value).all() and projection.kernel.dtype == "float32"

    lm.save(folder / f"{dtype}_adapter", to="peft")  # which stands beside the base as it is
    beside = tfllm.load(folder / "base", adapter=folder / f"{dtype}_adapter", jit_compile=False).model
    trained = {v.path: v.numpy() for v in lm.model.trainable_variables}
    for variable in beside.variables:
        wanted = trained[variable.path] if variable.path in trained else theirs[variable.path].numpy()
        assert (variable.numpy() == wanted).all(), variable.path


@pytest.mark.slow
def test_a_run_that_stopped_goes_on_as_if_it_had_not(folder):
    command = [
        "train",
        str(folder / "config.yaml"),
        "--run-dir",
        str(folder / "stopped"),
        "peft.base_dtype=int8",
    ]
    assert main([*command, "training.steps=5"]) == 0 and main(command) == 0
    whole, stopped = ([e["loss"] for e in entries(folder / name, "train")] for name in ("int8", "stopped"))
    assert whole == stopped


def test_it_is_read_from_its_base_and_takes_less_memory(folder):
    config = {
        "name": "x",
        "model": {"type": "pretrained", "source": str(folder / "base")},
        "data": {"train": {"type": "text_files", "path": str(folder / "text.txt")}, "seq_len": 16},
        "generation": {"max_new_tokens": 4},
    }
    weights = {}
    for dtype in ("float32", *SMALL):
        expanded = expand(config_from_mapping({**config, "peft": {"type": "lora", "base_dtype": dtype}}))
        model = make_model(expanded, expanded.model.vocab_size, training=True)
        start_from_source(expanded, model, notify=lambda line: None)
        weights[dtype] = memory_of(expanded, model)["weights"]
        at_start = {
            v.path: v.numpy() for v in model_at_start(expanded, pretrained_tokenizer(expanded)).variables
        }
        for path, projection in projections(
            model
        ).items():  # what a preference is measured by, of other rows too
            value = floats(projection.kernel)
            np.testing.assert_allclose(at_start[f"{path}/kernel"], value, rtol=1e-6, atol=1e-7)
        numbers = sum(np.prod(p.kernel.shape) for path, p in projections(model).items() if "/block_" in path)
        if dtype == "float32":
            values = {path: tf.convert_to_tensor(p.kernel) for path, p in projections(model).items()}
        for path, projection in projections(model).items():
            value = values[path] if "/block_" not in path else rounded(values[path], dtype)
            np.testing.assert_allclose(floats(projection.kernel), value, rtol=1e-6, atol=1e-7)
    assert weights["float32"] - weights["bfloat16"] == 2 * numbers
    assert weights["float32"] - weights["int8"] == 3 * numbers
