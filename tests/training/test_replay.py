import numpy as np
import pytest
import tensorflow as tf

from tests.training.toy import batch, toy_model
from tfllm.tasks.causal_lm import CausalLM
from tfllm.training.replay import explain_step, load_batch, save_batch


def explain(model, features):
    features = {name: tf.constant(value) for name, value in features.items()}
    return list(explain_step(model, CausalLM(), model.trainable_variables, features))


def test_a_batch_comes_back(tmp_path):
    save_batch(tmp_path / "new" / "batch.npz", batch(0))
    again = load_batch(tmp_path / "new" / "batch.npz")
    assert again.keys() == batch(0).keys()
    for name, value in batch(0).items():
        np.testing.assert_array_equal(again[name], value)


def test_a_sound_step_is_said_to_be_sound():
    lines = explain(toy_model(), batch(0))
    assert lines[0].startswith("loss ")
    assert "every number finite" in lines[1]
    assert lines[-1].startswith("every operation gives finite numbers")


def test_weights_that_were_broken_before_are_named():
    model = toy_model()
    model.blocks[0].feed_forward.down.kernel.assign(np.full([32, 8], np.nan))
    lines = explain(model, batch(0))
    assert (
        "weights that were not finite before the step: decoder/block_00/feed_forward/down/kernel" in lines[0]
    )


@pytest.mark.parametrize(
    ("breaks", "phase"),
    [
        (lambda model, features: model.stack.final_norm.scale.assign(np.full([8], 3e38)), "forward"),
        (lambda model, features: features["loss_weights"].__setitem__((0, 0), np.inf), "pass"),
    ],
    ids=["forward", "loss"],
)
def test_the_first_bad_operation_is_named_with_its_line(breaks, phase):
    model, features = toy_model(), batch(0)
    breaks(model, features)
    last = explain(model, features)[-1]
    assert "the first number that is not finite comes from" in last
    assert "tfllm/" in last and ".py:" in last and phase in last
