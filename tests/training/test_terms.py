"""A loss of several terms: each one's mean over the global batch, times its coefficient."""

import numpy as np
import pytest
import tensorflow as tf

from tests.marks import mostly_slow
from tests.training.toy import DIVISIONS, batch, run_steps, toy_model, toy_step
from tfllm.tasks.vocabulary_loss import cross_entropy_sum
from tfllm.training.callbacks import TrainerState, term_losses
from tfllm.training.gradients import shares_of
from tfllm.training.train_step import METRICS, metric_names, metrics_by_name

SGD = {"optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.1}
STEPS = 3


class TwoTerms:
    """Next tokens, and with a weight on a few first places only, the same token again."""

    coefficients = {"next": 1.0, "same": 0.3}

    def _parts(self, features):
        yield "next", features["targets"], features["loss_weights"]
        first = tf.cast(tf.range(6) < 1, tf.float32) * tf.cast(features["token_ids"] % 5 == 0, tf.float32)
        yield "same", features["token_ids"], first

    def weights(self, features):
        return {name: tf.reduce_sum(weights) for name, _, weights in self._parts(features)}

    def loss(self, model, features, outputs):
        return {
            name: cross_entropy_sum(model.logits, outputs["hidden_states"], targets, weights)
            for name, targets, weights in self._parts(features)
        }


def two_terms(**arguments):
    step = toy_step(clip_norm=0.1, task=TwoTerms(), **{**SGD, **arguments})
    metrics, weights = run_steps(step, STEPS)
    return metrics_by_name(metrics, step.terms), weights


@pytest.fixture(scope="module")
def whole():
    return two_terms()


def by_hand(features, coefficients, penalty=0.0):
    model, task = toy_model(dropout=0.25), TwoTerms()
    variables = [v.value for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        losses, weights = task.loss(model, features, model(features, training=True)), task.weights(features)
        means = {name: losses[name] / weights[name] for name in losses}
        total = tf.add_n([coefficients[name] * means[name] for name in means])
        total += penalty * tf.add_n([tf.reduce_sum(v**2) for v in variables])
    gradients = tape.gradient(total, variables)
    return means, float(total), [tf.convert_to_tensor(g).numpy() for g in gradients]


def test_each_term_is_divided_by_its_own_weight(whole):
    features = batch(0)
    means, total, gradients = by_hand(features, TwoTerms.coefficients)
    first = {name: column[0] for name, column in whole[0].items()}
    assert first["loss_sum"] / first["weight_sum"] == pytest.approx(total, rel=1e-5)
    for name, mean in means.items():
        assert first[f"loss_sum/{name}"] / first[f"weight_sum/{name}"] == pytest.approx(float(mean), rel=1e-5)
    assert first["grad_norm"] == pytest.approx(np.sqrt(sum((g**2).sum() for g in gradients)), rel=1e-5)
    heavy, light = first["weight_sum/next"], first["weight_sum/same"]
    assert heavy > 5 * light, "one denominator for both would show"


@pytest.mark.parametrize("division", mostly_slow(DIVISIONS, ["4 microbatches"]))
def test_replicas_and_microbatches_equal_one_device(whole, division):
    metrics, weights = two_terms(**DIVISIONS[division])
    for name in metrics:
        np.testing.assert_allclose(metrics[name], whole[0][name], rtol=3e-6, atol=1e-6, err_msg=name)
    for one, other in zip(weights, whole[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_term_that_no_example_has_counts_nothing():
    np.testing.assert_allclose(shares_of({"a": 1.0, "b": 0.5}, tf.constant([8.0, 2.0])), [1, 2])
    np.testing.assert_array_equal(shares_of({"a": 1.0, "b": 0.5}, tf.constant([8.0, 0.0])), [1, 0])
    np.testing.assert_array_equal(shares_of({"a": 1.0, "b": 0.5}, tf.constant([0.0, 2.0])), [0, 0.5])
    np.testing.assert_array_equal(shares_of({"a": 2.0}, tf.constant([0.0])), [2])


@pytest.mark.slow
def test_a_penalty_is_added_once_whatever_the_replicas():
    _, _, gradients = by_hand(batch(0), TwoTerms.coefficients, penalty=0.2)
    norm = np.sqrt(sum((g**2).sum() for g in gradients))

    def step(**arguments):
        made = toy_step(task=TwoTerms(), **SGD, **arguments)
        variables = made.model.trainable_variables
        made.penalty = lambda: 0.2 * tf.add_n([tf.reduce_sum(v.value**2) for v in variables])
        return made

    for arguments in ({}, {"replicas": 2, "num_microbatches": 2}):
        metrics, weights = run_steps(step(**arguments), 1)
        assert metrics[0, METRICS.index("grad_norm")] == pytest.approx(norm, rel=1e-5)
        if not arguments:
            alone = weights
    for one, other in zip(weights, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_log_line_has_a_mean_of_each_term(whole):
    state = TrainerState()
    state.add(np.stack(list(whole[0].values()), axis=1).astype(np.float32), ("next", "same"))
    assert len(whole[0]) == len(metric_names(("next", "same"))) == len(METRICS) + 4
    losses = term_losses(state.window)
    assert losses.keys() == {"next_loss", "same_loss"}
    for name in ("next", "same"):
        mean = whole[0][f"loss_sum/{name}"].sum() / whole[0][f"weight_sum/{name}"].sum()
        assert losses[f"{name}_loss"] == pytest.approx(mean)
    assert metric_names(("loss",)) == METRICS
