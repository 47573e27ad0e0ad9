"""Recomputing activations: less memory, and otherwise nothing to see."""

import re

import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import randomized
from tests.training.toy import run_steps, toy_step
from tfllm.layers.recompute import recompute
from tfllm.models.decoder import Decoder
from tfllm.tasks.causal_lm import CausalLM

B, T, N = 4, 24, 3
SHAPE = {"vocab_size": 19, "num_layers": 3, "hidden_dim": 12, "num_heads": N, "max_seq_len": T}


def make(remat, dtype="float32"):
    return randomized(Decoder(**SHAPE, num_kv_heads=1, dropout=0.3, remat=remat, dtype=dtype))


def packed_rows():
    """Rows of two documents and padding, with dropout."""
    segments = np.repeat([[1, 2, 0]], B, axis=0).repeat([9, 11, 4], axis=1)
    return {
        "token_ids": tf.constant(np.random.default_rng(0).integers(0, 19, [B, T]), tf.int32),
        "segment_ids": tf.constant(segments, tf.int32),
        "padding_mask": tf.constant(segments > 0),
        "positions": tf.constant(
            np.concatenate([np.arange(n) for n in (9, 11, 4)])[None].repeat(B, 0), tf.int32
        ),
        "row_seeds": tf.range(B),
        "targets": tf.constant(np.random.default_rng(1).integers(0, 19, [B, T]), tf.int32),
        "loss_weights": tf.constant(segments > 0, tf.float32),
    }


def loss_and_gradients(model, features, jit_compile=False):
    """Operation by operation, or compiled."""

    def run(features):
        with tf.GradientTape() as tape:
            loss = CausalLM().loss(model, features, model(features, training=True))["loss"]
        return loss, *map(
            tf.convert_to_tensor, tape.gradient(loss, [v.value for v in model.trainable_variables])
        )

    return (tf.function(run, jit_compile=True, autograph=False) if jit_compile else run)(features)


def assert_same(ours, theirs, rtol=1e-6):
    assert len(ours) == len(theirs) > 20
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=rtol * max(1e-3, np.abs(other).max()))


@pytest.fixture(scope="module")
def kept():
    return loss_and_gradients(make("none"), packed_rows())


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("remat", ["attention", "block"])
def test_gradients_are_the_same(kept, remat, jit_compile):
    """Dropout is on: another mask in the backward pass would be seen."""
    # XLA fuses, and so rounds, the two differently.
    rtol = 1e-5 if jit_compile else 1e-6
    assert_same(loss_and_gradients(make(remat), packed_rows(), jit_compile), kept, rtol)


@pytest.mark.parametrize("remat", ["attention", "block"])
def test_gradients_are_the_same_in_mixed_precision(remat):
    ours, theirs = (
        loss_and_gradients(make(kind, "mixed_bfloat16"), packed_rows()) for kind in (remat, "none")
    )
    assert_same(ours, theirs)


# What is kept


@pytest.mark.slow
def test_xla_does_not_undo_it():
    """The bytes alive at once for each block more, read off the instructions XLA schedules."""
    tensor = 4 * SIZES["max_seq_len"] * SIZES["hidden_dim"]
    few, many = 2, 4
    a_block = {
        remat: (peak_bytes(remat, many) - peak_bytes(remat, few)) / (many - few) / tensor
        for remat in ("none", "attention", "block")
    }
    assert a_block["none"] - a_block["attention"] > 4  # its norm, query, key, value and result
    assert a_block["none"] - a_block["block"] > 9


SIZES = {"vocab_size": 19, "hidden_dim": 48, "num_heads": N, "max_seq_len": 128}


def peak_bytes(remat, num_layers):
    model = Decoder(**SIZES, num_layers=num_layers, remat=remat)
    model.build()

    @tf.function(jit_compile=True, autograph=False)
    def run(token_ids):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model({"token_ids": token_ids}, training=True)["hidden_states"])
        return tape.gradient(loss, [v.value for v in model.trainable_variables[1:]])

    token_ids = tf.zeros([1, SIZES["max_seq_len"]], tf.int32)
    return bytes_alive_at_once(run.experimental_get_compiler_ir(token_ids)(stage="optimized_hlo"))


def bytes_alive_at_once(hlo):
    """The largest sum of float32 results that are still to be read, in the order of the entry's lines."""
    assert "is_scheduled=true" in hlo
    lines = hlo[hlo.index("ENTRY") :].splitlines()[1:]
    born, size, last_use = {}, {}, {}
    for index, line in enumerate(lines):
        name, _, rest = line.strip().removeprefix("ROOT ").partition(" = ")
        shape = re.match(r"f32\[([\d,]+)\]", rest)
        if shape and " parameter(" not in rest and " bitcast(" not in rest:
            born[name] = index
            size[name] = 4 * int(np.prod([int(n) for n in shape[1].split(",")]))
        for operand in re.findall(r"%[\w.\-]+", rest):
            last_use[operand] = index
    change = np.zeros(len(lines) + 1)
    for name, index in born.items():
        change[index] += size[name]
        change[last_use.get(name, index)] -= size[name]
    return change.cumsum().max()


def test_plain_graphs_wait_for_the_backward_pass():
    """Without XLA operations run when their inputs are there: the second run must need the gradient."""
    order = []

    def noted(x, name):
        return tf.numpy_function(lambda x: (order.append(name), x)[1], [x], x.dtype)

    @tf.custom_gradient
    def inside(x):
        return noted(tf.sin(x), "inside"), lambda upstream: upstream * tf.cos(x)

    @tf.custom_gradient
    def outside(x):
        return tf.identity(x), lambda upstream: tf.ensure_shape(noted(upstream, "backward"), [2])

    @tf.function(autograph=False)
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = outside(recompute(lambda x: tf.ensure_shape(inside(x), [2]), x))
        return y, tape.gradient(y, x)

    x = tf.constant([0.5, 2.0])
    y, gradient = run(x)
    np.testing.assert_allclose(y, np.sin(x), rtol=1e-6)
    np.testing.assert_allclose(gradient, np.cos(x), rtol=1e-6)
    assert order == ["inside", "backward", "inside"]


# Beside other parts


@pytest.mark.parametrize("remat", ["attention", "block"])
def test_scores_and_caches_are_as_without(remat):
    features = packed_rows()
    ours, theirs = (
        make(kind)(features, training=True, attention_scores=["block_01"]) for kind in (remat, "none")
    )
    np.testing.assert_allclose(
        ours["attention_scores"]["block_01"], theirs["attention_scores"]["block_01"], atol=1e-6
    )
    np.testing.assert_allclose(ours["logits"], theirs["logits"], atol=1e-5)
    prompts = features["token_ids"], features["padding_mask"], T + 1
    both = (tf.nest.flatten(make(kind).prefill(*prompts)) for kind in (remat, "none"))
    for one, other in zip(*both, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("remat", "arguments"),
    [
        pytest.param("block", {"num_microbatches": 2}, id="block, microbatches"),
        pytest.param("attention", {"replicas": 2}, id="attention, replicas", marks=pytest.mark.slow),
        pytest.param(
            "block",
            {"num_microbatches": 2, "replicas": 2, "jit_compile": True},
            id="compiled",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_training_step_does_not_notice(remat, arguments):
    metrics, weights = run_steps(toy_step(), 2)
    ours = run_steps(toy_step(remat=remat, **arguments), 2)
    np.testing.assert_allclose(ours[0], metrics, rtol=1e-5)
    for one, other in zip(ours[1], weights, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_a_gradient_that_is_not_finite_stays_visible():
    x = tf.constant([1.0, np.inf])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = recompute(lambda x, n: tf.square(x) * tf.cast(n, x.dtype), x, tf.constant(3))
    assert np.isinf(tape.gradient(y, x, output_gradients=tf.constant([np.inf, 1.0]))).all()


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="remat='blocks' is not known; use none, attention, block"):
        Decoder(**SHAPE, remat="blocks")
