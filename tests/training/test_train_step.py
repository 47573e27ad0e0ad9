import numpy as np
import pytest
import tensorflow as tf

from tests.training.toy import BATCH, LENGTH, batch, batches, run_steps, toy_model, toy_step
from tfllm.tasks.causal_lm import CausalLM
from tfllm.training.loss_scale import GROWTH_STEPS, INITIAL
from tfllm.training.train_step import METRICS, metrics_by_name

STEPS = 4


SGD = {"optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.1}
ADAMW = {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1}


@pytest.fixture(scope="module")
def whole():
    """What one device with the whole batch computes, by optimizer."""
    return {settings["optimizer"]: run_steps(toy_step(**settings), STEPS) for settings in (SGD, ADAMW)}


def numbers(metrics, *names):
    """Columns of the steps' metrics by name, [steps, names]."""
    return np.stack([metrics_by_name(metrics)[name] for name in names], axis=1)


def assert_same(ours, theirs):
    np.testing.assert_allclose(ours[0], theirs[0], rtol=2e-6, atol=1e-6)
    for one, other in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "replicas", "num_microbatches"),
    [pytest.param(SGD, 2, 1, marks=pytest.mark.slow), (SGD, 1, 4), (ADAMW, 2, 2)],
    ids=["2 replicas", "4 microbatches", "2 replicas x 2 microbatches, adamw"],
)
def test_replicas_and_microbatches_equal_one_device(whole, settings, replicas, num_microbatches):
    metrics, weights = whole[settings["optimizer"]]
    step = toy_step(replicas=replicas, num_microbatches=num_microbatches, **settings)
    assert_same(run_steps(step, STEPS), (metrics, weights))
    assert (numbers(metrics, "grad_norm") > 0.1).all(), "clipping was on in every step"


@pytest.mark.slow
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
        loss = task.loss(model, features, model(features, training=True))["loss"]
        weight = task.weights(features)["loss"]
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
    scale = min(1.0, clip_norm / norm) if clip_norm else 1.0
    size = np.sqrt(sum((w**2).sum() for w in after))
    want = [loss, weight, BATCH * LENGTH, BATCH * LENGTH, 0, norm, 0.5, 0.5 * scale * norm / size, 1, 0, 0]
    np.testing.assert_allclose(metrics[0], want, rtol=1e-5)
    for old, new, gradient in zip(before, after, gradients, strict=True):
        np.testing.assert_allclose(new, old - 0.5 * scale * gradient, atol=1e-6)


def test_a_batch_without_weight_changes_nothing():
    empty = {**batch(0), "loss_weights": np.zeros([BATCH, LENGTH], np.float32)}
    step = toy_step()
    before = [v.numpy() for v in step.model.trainable_variables]
    data = tf.data.Dataset.from_tensors(empty)
    metrics, after = run_steps(step, 1, data)
    np.testing.assert_array_equal(metrics[0], [0, 0, 48, 48, 0, 0, 0.5, 0, 1, 0, 0])
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


def test_padding_is_counted_apart():
    segments = np.ones([BATCH, LENGTH], np.int32)
    segments[2:, 4:] = 0
    data = tf.data.Dataset.from_tensors({**batch(0), "segment_ids": segments})
    metrics, _ = run_steps(toy_step(), 1, data)
    np.testing.assert_array_equal(numbers(metrics, "real_tokens", "positions")[0], [48 - 12, 48])


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_step_that_is_not_finite_changes_nothing_and_says_so(replicas):
    """The infinity is in the rows of the last replica only."""
    features = batch(0)
    features["loss_weights"][-1, -1] = np.inf
    step = toy_step(replicas=replicas, optimizer="adamw", learning_rate=0.1)
    before = [v.numpy() for v in (*step.model.variables, *step.optimizer.variables)]
    metrics, _ = run_steps(step, 1, tf.data.Dataset.from_tensors(features))
    assert numbers(metrics, "failed", "skipped").tolist() == [[1, 0]]
    after = [v.numpy() for v in (*step.model.variables, *step.optimizer.variables)]
    names = [v.path for v in (*step.model.variables, *step.optimizer.variables)]
    changed = [n for n, old, new in zip(names, before, after, strict=True) if not np.array_equal(old, new)]
    assert [name.rpartition("/")[2] for name in changed] == ["iterations"]


@pytest.mark.parametrize(("factor", "skipped"), [(0.99, 1), (1.01, 0)])
def test_a_gradient_larger_than_allowed_is_skipped(whole, factor, skipped):
    norm = numbers(whole["sgd"][0], "grad_norm")[0, 0]
    step = toy_step(skip_above=norm * factor, **SGD)
    before = [v.numpy() for v in step.model.trainable_variables]
    metrics, after = run_steps(step, 1)
    assert numbers(metrics, "skipped", "failed").tolist() == [[skipped, 0]]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True)) == bool(skipped)
    assert [int(step.optimizer.iterations), int(step.optimizer.updates)] == [1, 1 - skipped]


class TestFloat16:
    def step(self, **settings):
        return toy_step(dtype="mixed_float16", precision="mixed_float16", optimizer="adamw", **settings)

    def test_it_trains_like_float32(self):
        data = tf.data.Dataset.from_tensors(batch(3)).repeat(20)
        settings = {"learning_rate": 0.03, "clip_norm": 1.0, "dropout": 0.0}
        half, weights = run_steps(self.step(**settings), 20, data)
        whole, _ = run_steps(toy_step(optimizer="adamw", **settings), 20, data)
        losses = [numbers(m, "loss_sum")[:, 0] for m in (half, whole)]
        assert losses[0][-1] < 0.7 * losses[0][0]
        np.testing.assert_allclose(losses[0], losses[1], rtol=0.05)
        assert {w.dtype for w in weights} == {np.dtype("float32")}
        assert numbers(half, "skipped", "failed").sum() == 0

    @pytest.mark.parametrize("replicas", [1, 2])
    @pytest.mark.slow
    def test_an_overflow_on_one_replica_skips_the_step_on_all(self, replicas):
        """The loss is finite; its gradient times the scale is not, in the last rows only."""
        features = batch(0)
        features["loss_weights"][-1] = 3000.0
        data = tf.data.Dataset.from_tensors(features).repeat(30)
        step = self.step(replicas=replicas, learning_rate=1e-3)
        step.loss_scale.scale.assign(2.0**20)
        before = [v.numpy() for v in step.model.trainable_variables]
        metrics, after = run_steps(step, 1, data.take(1))
        assert numbers(metrics, "skipped", "failed", "loss_scale").tolist() == [[1, 0, 2.0**20]]
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(one, other)
        metrics, _ = run_steps(step, 30, data)
        skipped, scales = numbers(metrics, "skipped", "loss_scale").T
        assert scales[0] == 2.0**19
        assert skipped[0] == 1 and skipped[-1] == 0, "the scale fell until the gradients fitted"
        assert scales[-1] == 2.0 ** (19 - skipped.sum())
        copies = [
            tf.distribute.get_strategy().experimental_local_results(v.value) for v in step.model.variables
        ]
        assert all(np.array_equal(c[0], c[-1]) for c in copies)
        assert int(step.optimizer.updates.numpy()) == 30 - skipped.sum()

    def test_the_scale_grows_after_many_good_steps(self):
        step = self.step(learning_rate=1e-3)
        assert float(step.loss_scale.scale) == INITIAL
        step.loss_scale.good_steps.assign(GROWTH_STEPS - 2)
        metrics, _ = run_steps(step, 3)
        assert numbers(metrics, "loss_scale")[:, 0].tolist() == [INITIAL, INITIAL, 2 * INITIAL]
        assert int(step.loss_scale.good_steps) == 1

    def test_a_scale_that_falls_without_end_is_a_failure(self):
        features = batch(0)
        features["loss_weights"][-1] = 3e7
        step = self.step(learning_rate=1e-3)
        step.loss_scale.scale.assign(2.0**-15)
        metrics, _ = run_steps(step, 1, tf.data.Dataset.from_tensors(features))
        assert numbers(metrics, "failed").tolist() == [[1]]


def test_a_request_to_stop_is_heard_by_every_replica():
    step = toy_step(replicas=2)
    data = step.strategy.experimental_distribute_dataset(batches(0, 1))
    metrics = tf.function(step, autograph=False)(next(iter(data)), tf.constant(1.0)).numpy()
    assert metrics[METRICS.index("stop")] == 2
