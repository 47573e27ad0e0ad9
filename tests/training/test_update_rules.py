"""Each rule against Keras's optimizer where Keras has the same definition, else against its paper."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.toy import toy_model
from tfllm.training.optimizers import make_optimizer
from tfllm.training.parameter_groups import decays
from tfllm.training.schedules import Schedule

STEPS = 6
ADAM = {"beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3}


def schedule(peak=0.1):
    return Schedule(kind="cosine", peak=peak, total_steps=8, warmup_steps=3, final_fraction=0.1)


def gradients_of(step, variables):
    """Random, of sizes that differ by variable and step, so that every ratio a rule takes matters."""
    rng = np.random.default_rng(step)
    return [tf.constant(rng.normal(size=v.shape) * rng.exponential(), tf.float32) for v in variables]


def assert_as_keras(theirs, kind, rate=0.1, weight_decay=0.2, atol=2e-6, **arguments):
    """Same weights after every step, beginning with the same ones."""
    ours_model, theirs_model = (toy_model(tie_embeddings=False, norm="layer_norm") for _ in range(2))
    ours, expected = ours_model.trainable_variables, theirs_model.trainable_variables
    theirs.exclude_from_weight_decay(var_list=[v for v in expected if not decays(v, decay_embeddings=False)])
    optimizer = make_optimizer(
        kind, learning_rate=schedule(rate), weight_decay=weight_decay, variables=ours, **arguments
    )
    start = [v.numpy() for v in ours]
    apply = tf.function(optimizer.apply)
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


@pytest.mark.parametrize(("rate", "relative_step"), [(0.1, False), (0.1, True), (5.0, True)])
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
        optimizer = make_optimizer(
            "adafactor",
            learning_rate=4.0,
            variables=[variable],
            relative_step=relative_step,
        )
        optimizer.apply(gradients_of(0, [variable]))
        moved.append(variable.numpy() - before)
    np.testing.assert_allclose(moved[0], 4.0 * moved[1], rtol=1e-4)
