import math

import pytest
import tensorflow as tf

from tfllm.training.schedules import WSD, Constant, Cosine, Linear

COURSES = {"constant": Constant, "linear": Linear, "cosine": Cosine, "wsd": WSD}
SCHEDULE = {"peak": 2.0, "total_steps": 100, "warmup_steps": 10, "final_fraction": 0.1}


def rate(kind, step, **settings):
    return float(COURSES[kind](**{**SCHEDULE, **settings})(tf.constant(step)))


@pytest.mark.parametrize("kind", COURSES)
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


@pytest.mark.parametrize("kind", COURSES)
def test_a_share_of_all_steps_rises(kind):
    def course(**warmup):
        return [rate(kind, step, **{"warmup_steps": 0, **warmup}) for step in range(100)]

    assert course(warmup_fraction=0.1) == course(warmup_steps=10)
    assert course(warmup_fraction=0.29) == course(warmup_steps=29)  # 0.29 * 100 is 28.999…
    assert course(warmup_fraction=0.001) == course(warmup_steps=1)
    assert course(warmup_fraction=1.0) == course(warmup_steps=100)


@pytest.mark.parametrize("kind", COURSES)
def test_a_schedule_is_serializable(kind):
    own = {"decay_fraction": 0.3} if kind == "wsd" else {}
    schedule = COURSES[kind](**own, **SCHEDULE)
    config = schedule.get_config()
    assert config == {**own, **SCHEDULE}
    assert COURSES[kind].from_config(config).get_config() == config
