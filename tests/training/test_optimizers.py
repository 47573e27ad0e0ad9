import math

import numpy as np
import pytest
import tensorflow as tf

from tests.training.toy import toy_model
from tfllm.training.optimizers import OPTIMIZERS, make_optimizer
from tfllm.training.precision import dtype_policy
from tfllm.training.schedules import Schedule

SCHEDULE = {"peak": 2.0, "total_steps": 100, "warmup_steps": 10, "final_fraction": 0.1}


def rate(kind, step, **settings):
    return float(Schedule(kind=kind, **{**SCHEDULE, **settings})(tf.constant(step)))


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "wsd"])
def test_every_schedule_rises_first(kind):
    for step in range(10):
        assert rate(kind, step) == pytest.approx(2.0 * (step + 1) / 10)
    assert rate(kind, 10) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", {55: 2.0, 99: 2.0, 100: 2.0}),
        ("linear", {55: 2.0 * 0.55, 100: 0.2, 150: 0.2}),
        (
            "cosine",
            {55: 2.0 * 0.55, 32.5: 2.0 * (1 - 0.9 * 0.5 * (1 - math.cos(math.pi / 4))), 100: 0.2, 150: 0.2},
        ),
        ("wsd", {55: 2.0, 80: 2.0, 90: 2.0 * 0.55, 100: 0.2, 150: 0.2}),
    ],
)
def test_courses_after_the_rise(kind, expected):
    for step, value in expected.items():
        assert rate(kind, float(step)) == pytest.approx(value, rel=1e-5), step


def test_a_long_rise_leaves_less_to_fall():
    assert rate("wsd", 90, warmup_steps=90) == pytest.approx(2.0)
    assert rate("wsd", 95, warmup_steps=90) == pytest.approx(2.0 * 0.55)
    assert rate("linear", 99, warmup_steps=100) == pytest.approx(2.0)
    assert rate("constant", 0, warmup_steps=0) == 2.0


def test_a_schedule_is_serializable():
    schedule = Schedule(kind="wsd", decay_fraction=0.3, **SCHEDULE)
    assert Schedule.from_config(schedule.get_config()).get_config() == schedule.get_config()
    with pytest.raises(ValueError, match="schedule kind='step' is not known"):
        Schedule(kind="step", peak=1.0, total_steps=2)


@pytest.mark.parametrize("decay_embeddings", [False, True])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_weight_decay_is_for_matrices(kind, decay_embeddings):
    model = toy_model(positions="learned", tie_embeddings=False, norm="layer_norm")
    before = {v.path: v.numpy() for v in model.trainable_variables}
    optimizer = make_optimizer(
        kind,
        learning_rate=0.1,
        weight_decay=0.2,
        decay_embeddings=decay_embeddings,
        variables=model.trainable_variables,
    )
    optimizer.apply([tf.zeros(v.shape) for v in model.trainable_variables], model.trainable_variables)
    decayed = set()
    for variable in model.trainable_variables:
        moved = np.abs(variable.numpy() - before[variable.path]).max()
        if moved > 1e-6:
            decayed.add(variable.path)
            np.testing.assert_allclose(variable.numpy(), before[variable.path] * (1 - 0.1 * 0.2), rtol=1e-5)
    matrices = {path for path in before if path.endswith("kernel")}
    tables = {path for path in before if path.endswith("embeddings")}
    assert len(matrices) == 7
    assert len(tables) == 2
    assert decayed == matrices | (tables if decay_embeddings else set())


def test_adamw_is_its_formula():
    model = toy_model()
    variables = model.trainable_variables
    settings = {"beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3}
    optimizer = make_optimizer("adamw", learning_rate=0.1, weight_decay=0.0, variables=variables, **settings)
    expected = variables[0].numpy()
    rng = np.random.default_rng(0)
    mean = square = 0.0
    for step in range(1, 4):
        gradients = [rng.normal(size=v.shape).astype(np.float32) for v in variables]
        optimizer.apply([tf.constant(g) for g in gradients], variables)
        mean = 0.8 * mean + 0.2 * gradients[0]
        square = 0.9 * square + 0.1 * gradients[0] ** 2
        # Keras adds epsilon to the root before the bias is corrected (Kingma & Ba 2015, end of section 2).
        size = 0.1 * np.sqrt(1 - 0.9**step) / (1 - 0.8**step)
        expected = expected - size * mean / (np.sqrt(square) + 1e-3)
    np.testing.assert_allclose(variables[0].numpy(), expected, atol=1e-5)


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="optimizer kind='adam' is not known"):
        make_optimizer("adam", learning_rate=0.1, variables=[])
    with pytest.raises(ValueError, match="precision='float16' is not known"):
        dtype_policy("float16")
    assert dtype_policy("mixed_bfloat16").variable_dtype == "float32"
