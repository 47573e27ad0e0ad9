import numpy as np
import pytest
import tensorflow as tf

from tests.training.toy import BATCH, LENGTH, batch, run_steps, toy_model, toy_step
from tfllm.tasks.causal_lm import CausalLM

STEPS = 4


SGD = {"optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.1}
ADAMW = {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1}


@pytest.fixture(scope="module")
def whole():
    """What one device with the whole batch computes, by optimizer."""
    return {settings["optimizer"]: run_steps(toy_step(**settings), STEPS) for settings in (SGD, ADAMW)}


def assert_same(ours, theirs):
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6, atol=1e-6)
    for one, other in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "replicas", "num_microbatches"),
    [(SGD, 2, 1), (SGD, 1, 4), (ADAMW, 2, 2)],
    ids=["2 replicas", "4 microbatches", "2 replicas x 2 microbatches, adamw"],
)
def test_replicas_and_microbatches_equal_one_device(whole, settings, replicas, num_microbatches):
    metrics, weights = whole[settings["optimizer"]]
    step = toy_step(replicas=replicas, num_microbatches=num_microbatches, **settings)
    assert_same(run_steps(step, STEPS), (metrics, weights))
    assert (metrics[:, 2] > 0.1).all(), "clipping was on in every step"


def test_xla_equals_no_xla(whole):
    metrics, weights = whole["sgd"]
    got = run_steps(toy_step(jit_compile=True, **SGD), STEPS)
    np.testing.assert_allclose(got[0], metrics, rtol=1e-5)
    for one, other in zip(got[1], weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_toy_batches_can_tell_a_mean_of_means():
    """The proof above means nothing with shares that weigh the same."""
    sums = batch(0)["loss_weights"].reshape(4, -1).sum(axis=1)
    assert sums.max() > 2 * sums.min()


def gradient_by_hand(model, features):
    task = CausalLM()
    with tf.GradientTape() as tape:
        loss, weight = task.loss(model, features, model(features, training=True))
        mean = loss / weight
    gradients = tape.gradient(mean, [v.value for v in model.trainable_variables])
    return float(loss), float(weight), [np.asarray(g) for g in gradients]


@pytest.mark.parametrize("clip_norm", [0.1, 1e6, None])
def test_the_update_is_the_clipped_global_gradient(clip_norm):
    """On one device; the test above ties replicas to it."""
    model = toy_model(dropout=0.25)
    before = [v.numpy() for v in model.trainable_variables]
    loss, weight, gradients = gradient_by_hand(model, batch(0))
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    assert norm > 0.2
    metrics, after = run_steps(toy_step(clip_norm=clip_norm), 1)
    np.testing.assert_allclose(metrics[0], [loss, weight, norm, 0.5], rtol=1e-5)
    scale = min(1.0, clip_norm / norm) if clip_norm else 1.0
    for old, new, gradient in zip(before, after, gradients, strict=True):
        np.testing.assert_allclose(new, old - 0.5 * scale * gradient, atol=1e-6)


def test_a_batch_without_weight_changes_nothing():
    empty = {**batch(0), "loss_weights": np.zeros([BATCH, LENGTH], np.float32)}
    step = toy_step()
    before = [v.numpy() for v in step.model.trainable_variables]
    data = tf.data.Dataset.from_tensors(empty)
    metrics, after = run_steps(step, 1, data)
    np.testing.assert_array_equal(metrics[0], [0, 0, 0, 0.5])
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def test_mixed_bfloat16_trains_in_float32_variables():
    model = toy_model(dtype="mixed_bfloat16", positions="rotary", num_kv_heads=1)
    step = toy_step(model, optimizer="adamw", learning_rate=0.03, clip_norm=1.0)
    data = tf.data.Dataset.from_tensors(batch(3)).repeat(30)
    metrics, weights = run_steps(step, 30, data)
    losses = metrics[:, 0] / metrics[:, 1]
    assert losses[-1] < 0.6 * losses[0]
    assert {v.dtype for v in model.variables} == {"float32"}
    assert {v.dtype for v in step.optimizer.variables} == {"float32", "int64"}
    # The weights hold more than bfloat16 could.
    assert any((w != tf.cast(tf.cast(w, tf.bfloat16), tf.float32)).numpy().any() for w in weights)


def test_dropout_is_on_in_training():
    still, shaken = (run_steps(toy_step(dropout=rate), 1)[0][0, 0] for rate in (0.0, 0.25))
    assert abs(still - shaken) > 1e-3


def test_the_steps_differ_in_their_dropout():
    data = [{**batch(0), "row_seeds": batch(step)["row_seeds"]} for step in (0, 1)]
    losses = [run_steps(toy_step(), 1, tf.data.Dataset.from_tensors(d))[0][0, 0] for d in data]
    assert abs(losses[0] - losses[1]) > 1e-3


def test_a_gradient_that_is_not_finite_is_reported():
    model = toy_model()
    model.final_norm.scale.assign(np.full([8], np.inf))
    metrics, _ = run_steps(toy_step(model), 1)
    assert not np.isfinite(metrics[0, :3]).all()
