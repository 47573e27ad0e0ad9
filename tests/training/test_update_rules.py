"""Each rule against Keras's optimizer where Keras has the same definition, else against its paper."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.rules import optimizer_of
from tests.training.toy import toy_model
from tfllm.training.norms import global_norm
from tfllm.training.parameter_groups import decays
from tfllm.training.schedules import Cosine
from tfllm.training.update_rules import orthogonalized

STEPS = 6
ADAM = {"beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3}


def schedule(peak=0.1):
    return Cosine(peak=peak, total_steps=8, warmup_steps=3, final_fraction=0.1)


def gradients_of(step, variables):
    """Random, of sizes that differ by variable and step, so that every ratio a rule takes matters."""
    rng = np.random.default_rng(step)
    return [tf.constant(rng.normal(size=v.shape) * rng.exponential(), tf.float32) for v in variables]


def assert_as_keras(theirs, kind, rate=0.1, weight_decay=0.2, atol=2e-6, **arguments):
    """Same weights after every step, beginning with the same ones."""
    ours_model, theirs_model = (toy_model(tie_embeddings=False, norm="layer_norm") for _ in range(2))
    ours, expected = ours_model.trainable_variables, theirs_model.trainable_variables
    theirs.exclude_from_weight_decay(var_list=[v for v in expected if not decays(v, decay_embeddings=False)])
    optimizer = optimizer_of(
        kind, learning_rate=schedule(rate), weight_decay=weight_decay, variables=ours, **arguments
    )
    start = [v.numpy() for v in ours]
    apply = tf.function(optimizer.apply, autograph=False)
    for step in range(STEPS):
        gradients = gradients_of(step, ours)
        apply(gradients)
        theirs.apply(gradients, expected)
        for one, other in zip(ours, expected, strict=True):
            np.testing.assert_allclose(one.numpy(), other.numpy(), atol=atol, err_msg=f"{step} {one.path}")
    for one, old in zip(ours, start, strict=True):
        assert np.abs(one.numpy() - old).max() > 1e-3, one.path


def test_adamw():
    assert_as_keras(keras.optimizers.AdamW(schedule(), weight_decay=0.2, **ADAM), "adamw", **ADAM)


def test_lion():
    betas = {"beta_1": 0.8, "beta_2": 0.9}
    assert_as_keras(keras.optimizers.Lion(schedule(), weight_decay=0.2, **betas), "lion", **betas)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd(momentum, nesterov):
    arguments = {"momentum": momentum, "nesterov": nesterov}
    assert_as_keras(keras.optimizers.SGD(schedule(), weight_decay=0.2, **arguments), "sgd", **arguments)


@pytest.mark.parametrize(
    ("rate", "relative_step"),
    [
        pytest.param(0.1, False, marks=pytest.mark.slow),
        (0.1, True),
        pytest.param(5.0, True, marks=pytest.mark.slow),
    ],
)
def test_adafactor(rate, relative_step):
    """Keras never takes a rate above 1/√t; so 5.0 tells whether `relative_step` does anything."""
    theirs = keras.optimizers.Adafactor(schedule(rate), weight_decay=0.02)
    assert_as_keras(
        theirs, "adafactor", rate, weight_decay=0.02, relative_step=relative_step, atol=1e-5 * max(1, rate)
    )


def test_adafactor_without_relative_step_takes_the_rate_as_it_is():
    moved = []
    for relative_step in (False, True):
        model = toy_model()
        variable = model.trainable_variables[0]
        before = variable.numpy()
        optimizer = optimizer_of(
            "adafactor",
            learning_rate=4.0,
            variables=[variable],
            relative_step=relative_step,
        )
        optimizer.apply(gradients_of(0, [variable]))
        moved.append(variable.numpy() - before)
    np.testing.assert_allclose(moved[0], 4.0 * moved[1], rtol=1e-4)


def test_lamb_without_decay():
    """Keras decays apart from the step; the paper's decay is below."""
    assert_as_keras(keras.optimizers.Lamb(schedule(), **ADAM), "lamb", weight_decay=0.0, **ADAM)


def test_lamb_is_the_formula_of_its_paper():
    variable, still = (
        v for v in toy_model().trainable_variables if v.path.endswith(("query/kernel", "final_norm/scale"))
    )
    optimizer = optimizer_of(
        "lamb", learning_rate=schedule(), weight_decay=0.3, variables=[variable, still], **ADAM
    )
    weight, mean, square = variable.numpy().astype(np.float64), 0.0, 0.0
    still.assign(tf.zeros(still.shape))
    for step in range(STEPS):
        gradient, other = gradients_of(step, [variable, still])
        optimizer.apply([gradient, other if step else tf.zeros(still.shape)])
        gradient = gradient.numpy()
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.9 * square + 0.1 * gradient**2
        change = mean / (1 - 0.8 ** (step + 1)) / (np.sqrt(square / (1 - 0.9 ** (step + 1))) + 1e-3)
        change = change + 0.3 * weight
        weight = weight - float(schedule()(step)) * np.linalg.norm(weight) / np.linalg.norm(change) * change
        np.testing.assert_allclose(variable.numpy(), weight, atol=1e-5)
        if step == 0:
            assert (still.numpy() == 0).all(), "without a gradient, a weight of 0 stays"
    assert np.isfinite(still.numpy()).all()
    assert (still.numpy() != 0).all()


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon(nesterov):
    """Keras's exclusions made the same; a sum in another order moves the iteration by a few roundings."""
    shared = {"momentum": 0.9, "nesterov": nesterov, "ns_steps": 3}
    theirs = keras.optimizers.Muon(
        schedule(),
        weight_decay=0.2,
        adam_weight_decay=0.2,
        adam_beta_1=0.8,
        adam_beta_2=0.9,
        epsilon=1e-3,
        exclude_layers=["output_projection"],
        **shared,
    )
    assert_as_keras(theirs, "muon", atol=2e-5, **shared, **ADAM)


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6)])
def test_an_orthogonalized_matrix_keeps_its_directions(shape):
    left, sizes, right = np.linalg.svd(np.random.default_rng(0).normal(size=shape), full_matrices=False)
    got = orthogonalized(tf.constant(7.0 * (left * sizes) @ right, tf.float32)).numpy()
    inside = left.T @ got @ right.T
    values = np.diag(inside)
    np.testing.assert_allclose(inside - np.diag(values), 0.0, atol=1e-4)
    assert values.min() > 0.6
    assert values.max() < 1.3
    np.testing.assert_allclose(orthogonalized(tf.zeros(shape)).numpy(), 0.0)


def test_muon_steps_are_as_large_as_adamws():
    """0.2, as Moonlight measured of AdamW, for singular values of 1; they lie between 0.7 and 1.2."""
    with keras.name_scope("block_00"):
        variables = [
            keras.Variable(np.zeros(s), name=str(s[0]), dtype="float32") for s in [(64, 64), (16, 256)]
        ]
    optimizer = optimizer_of("muon", learning_rate=1.0, variables=variables)
    optimizer.apply(gradients_of(0, variables))
    for variable in variables:
        assert 0.2 * 0.7 < np.sqrt(np.mean(variable.numpy() ** 2)) < 0.2 * 1.2


def test_no_digit_of_the_bias_is_lost_near_one():
    """1 - 0.99999 in float32 is wrong by 0.1%, and so would be the first step."""
    variable = toy_model().trainable_variables[0]
    before = variable.numpy().astype(np.float64)
    arguments = {"beta_1": 0.99999, "beta_2": 0.99999, "epsilon": 1e-30}
    optimizer = optimizer_of("adamw", learning_rate=0.1, variables=[variable], **arguments)
    optimizer.apply([tf.ones(variable.shape)])
    np.testing.assert_allclose(before - variable.numpy(), 0.1, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 4096, 4097, 70_001])
def test_the_global_norm_counts_every_element(size):
    x = np.random.default_rng(size).normal(size=[size]).astype(np.float32)
    got = global_norm([tf.constant(x), tf.constant([[3.0, 4.0]])])
    np.testing.assert_allclose(got, np.sqrt((x.astype(np.float64) ** 2).sum() + 25), rtol=1e-6)
