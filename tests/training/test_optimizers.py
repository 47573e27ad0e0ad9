import json
import os
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.optimizer_run import digest, gradients_of, take_steps
from tests.training.rules import RULES, optimizer_of
from tests.training.toy import toy_model
from tfllm.training.distribution import mirrored, one_device
from tfllm.training.errors import TrainingError
from tfllm.training.precision import dtype_policy

MOMENTUM = {"sgd": {"momentum": 0.9}}


def everything(model, optimizer):
    named = {v.path: v.numpy() for v in model.variables}
    return {**named, **{name: v.numpy() for name, v in optimizer.named_variables.items()}}


@pytest.mark.parametrize("decay_embeddings", [False, True])
@pytest.mark.parametrize("kind", RULES)
def test_weight_decay_is_for_matrices(kind, decay_embeddings):
    model = toy_model(positions="learned", tie_embeddings=False, norm="layer_norm")
    before = {v.path: v.numpy() for v in model.trainable_variables}
    optimizer = optimizer_of(
        kind,
        learning_rate=0.1,
        weight_decay=0.2,
        decay_embeddings=decay_embeddings,
        variables=model.trainable_variables,
    )
    optimizer.apply([tf.zeros(v.shape) for v in model.trainable_variables])
    decayed = set()
    for variable in model.trainable_variables:
        moved = np.abs(variable.numpy() - before[variable.path]).max()
        if moved > 1e-6:
            decayed.add(variable.path)
            # LAMB gives decay, where it is all of the step, the length of the weight.
            left = 1 - 0.1 if kind == "lamb" else 1 - 0.1 * 0.2
            np.testing.assert_allclose(variable.numpy(), before[variable.path] * left, rtol=1e-5)
    matrices = {path for path in before if path.endswith("kernel")}
    tables = {path for path in before if path.endswith("embeddings")}
    assert len(matrices) == 7
    assert len(tables) == 2
    assert decayed == matrices | (tables if decay_embeddings else set())


@pytest.mark.parametrize("kind", RULES)
def test_a_step_that_is_not_applied_changes_nothing_but_the_count_of_steps(kind):
    """As if the skipped step had never been, but that the schedule goes on."""
    settings = {"weight_decay": 0.1, "ema_decay": 0.5, **MOMENTUM.get(kind, {})}
    rates = tf.constant([0.1, 7.0, 0.3])
    models = [toy_model() for _ in range(2)]
    skips, other = (
        optimizer_of(kind, learning_rate=course, variables=model.trainable_variables, **settings)
        for model, course in zip(models, [lambda i: rates[i], lambda i: rates[2 * i]], strict=True)
    )
    apply, plain = tf.function(skips.apply, autograph=False), tf.function(other.apply, autograph=False)
    first, last = gradients_of(0, skips.trainable), gradients_of(1, skips.trainable)
    bad = [tf.fill(g.shape, value) for g, value in zip(first, [np.nan, np.inf] * 50, strict=False)]
    apply(first, applied=tf.constant(True))
    before = everything(models[0], skips)
    change, size = apply(bad, applied=tf.constant(False))
    after = everything(models[0], skips)
    assert after.pop("iterations") == before.pop("iterations") + 1 == 2
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    assert change == 0.0
    np.testing.assert_allclose(size, np.sqrt(sum((v.numpy() ** 2).sum() for v in skips.trainable)), rtol=1e-5)
    apply(last, applied=tf.constant(True))
    plain(first)
    plain(last)
    after, expected = everything(models[0], skips), everything(models[1], other)
    assert (after.pop("iterations"), expected.pop("iterations")) == (3, 2)
    for name, value in expected.items():
        np.testing.assert_allclose(after[name], value, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_the_norms_are_of_the_change_and_of_the_weights():
    model = toy_model()
    before = [v.numpy() for v in model.trainable_variables]
    optimizer = optimizer_of("adamw", learning_rate=0.1, variables=model.trainable_variables)
    change, size = tf.function(optimizer.apply, autograph=False)(gradients_of(0, optimizer.trainable))
    moved = [v.numpy() - old for v, old in zip(model.trainable_variables, before, strict=True)]
    np.testing.assert_allclose(change, np.sqrt(sum((x**2).sum() for x in moved)), rtol=1e-5)
    after = [v.numpy() for v in model.trainable_variables]
    np.testing.assert_allclose(size, np.sqrt(sum((x**2).sum() for x in after)), rtol=1e-5)


def train(kind, replicas, **settings):
    strategy = one_device() if replicas == 1 else mirrored(replicas)
    states = take_steps(strategy, kind, **settings)
    assert len(states) == replicas
    return states


@pytest.mark.parametrize(
    "kind", [kind if kind == "adamw" else pytest.param(kind, marks=pytest.mark.slow) for kind in RULES]
)
def test_replicas_stay_alike_and_equal_one_device(kind):
    """Bit for bit, with one of three steps skipped."""
    settings = {"weight_decay": 0.1, "ema_decay": 0.9, **MOMENTUM.get(kind, {})}
    (one,) = train(kind, 1, **settings)
    both = train(kind, 2, **settings)
    assert one["iterations"] == 3
    assert one["updates"] == 2
    for copies in both:
        assert copies.keys() == one.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(copies[name], value, err_msg=name)


@pytest.mark.slow
def test_workers_stay_alike_and_equal_one_device():
    """Two processes on the loopback, bit for bit."""
    (one,) = train("adamw", 1, weight_decay=0.1, ema_decay=0.9)
    sockets = [socket.create_server(("localhost", 0)) for _ in range(2)]
    cluster = {"worker": [f"localhost:{s.getsockname()[1]}" for s in sockets]}
    for held in sockets:
        held.close()
    workers = []
    for index in range(2):
        task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(task)}
        command = [sys.executable, "-m", "tests.training.optimizer_run", "adamw"]
        workers.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    try:
        answers = [worker.communicate(timeout=240)[0].splitlines()[-1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert answers == [f"digests {digest(one)}"] * 2


@pytest.mark.slow
def test_xla_compiles_the_step_of_a_replica():
    settings = {"weight_decay": 0.1, "ema_decay": 0.9}
    (plain,) = train("adamw", 1, **settings)
    one, other = train("adamw", 2, jit_compile=True, **settings)
    for name, value in plain.items():
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
        np.testing.assert_allclose(one[name], value, atol=1e-6, err_msg=name)


def test_the_state_has_stable_names_and_types():
    names = []
    for _ in range(2):
        optimizer = optimizer_of(
            "adamw", learning_rate=0.1, ema_decay=0.9, variables=toy_model().trainable_variables
        )
        names.append(list(optimizer.named_variables))
    assert names[0] == names[1]
    assert {"iterations", "updates", "adamw/mean/decoder/block_00/attention/query/kernel"} < {*names[0]}
    assert "ema/decoder/block_00/attention/query/kernel" in names[0]
    assert len(optimizer.variables) == len(names[0]) == 2 + 3 * len(optimizer.trainable)
    types = {name: v.dtype for name, v in optimizer.named_variables.items()}
    assert (types.pop("iterations"), types.pop("updates")) == ("int64", "int64")
    assert {*types.values()} == {"float32"}
    (mean,) = (
        v for name, v in optimizer.named_variables.items() if name.startswith("adamw/mean/decoder/final")
    )
    assert mean.numpy().sum() == 0.0


def test_muon_takes_the_matrices_of_blocks_and_adamw_the_rest():
    model = toy_model(positions="learned", tie_embeddings=False, norm="layer_norm")
    optimizer = optimizer_of("muon", learning_rate=0.1, variables=model.trainable_variables, beta_1=0.5)
    slots = {name for name in optimizer.named_variables if "/" in name}
    matrices = {
        v.path for v in model.trainable_variables if "block_00" in v.path and v.path.endswith("kernel")
    }
    assert len(matrices) == 6
    assert {name for name in slots if name.startswith("muon/")} == {f"muon/momentum/{p}" for p in matrices}
    others = {v.path for v in model.trainable_variables} - matrices
    assert {"decoder/output_projection/kernel", "decoder/token_embedding/embeddings"} < others
    assert {name for name in slots if name.startswith("adamw/mean/")} == {f"adamw/mean/{p}" for p in others}
    with pytest.raises(TrainingError, match=r"optimizer\.type=muon finds no matrix"):
        optimizer_of("muon", learning_rate=0.1, variables=[model.stack.final_norm.scale])


def test_two_variables_of_one_path_are_refused():
    twice = [keras.Variable(np.ones([2]), name="a") for _ in range(2)]
    with pytest.raises(ValueError, match="two variables have the path a"):
        optimizer_of("adamw", learning_rate=0.1, variables=twice)


def test_unknown_precisions_are_refused():
    with pytest.raises(ValueError, match="precision='float16' is not known"):
        dtype_policy("float16")
    assert dtype_policy("mixed_bfloat16").variable_dtype == "float32"
