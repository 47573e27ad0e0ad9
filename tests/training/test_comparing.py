"""A loss that compares each example with all others of the global batch."""

import numpy as np
import pytest
import tensorflow as tf

from tests.marks import mostly_slow
from tests.training.toy import BATCH, DIVISIONS, batch, run_steps, toy_model, toy_step
from tfllm.tasks.causal_lm import CausalLM
from tfllm.training.gradients import ComparesExamples, loss_of_batch
from tfllm.training.train_step import metrics_by_name

SGD = {"optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.1}
STEPS = 3


class Matches:
    """Each row's first half must be nearer to its own second half than to all others'; rows without weight do not count."""

    coefficients = {"match": 1.0}
    compared = ("loss_weights",)

    def vectors(self, model, features, outputs):
        states = tf.cast(outputs["hidden_states"], tf.float32)
        halves = {"one": states[:, :3], "other": states[:, 3:]}
        return {name: tf.math.l2_normalize(tf.reduce_mean(x, axis=1), axis=-1) for name, x in halves.items()}

    def _counts(self, features):
        return tf.cast(tf.reduce_sum(features["loss_weights"], axis=1) > 0, tf.float32)

    def weights(self, features):
        return {"match": tf.reduce_sum(self._counts(features))}

    def loss_of_vectors(self, vectors, features):
        counts = self._counts(features)
        scores = tf.einsum("ID,JD->IJ", vectors["one"], vectors["other"]) / 0.1
        scores += (1.0 - counts)[None] * -1e9
        own = tf.linalg.diag_part(tf.nn.log_softmax(scores))
        return {"match": -tf.reduce_sum(tf.where(counts > 0, own, 0.0))}


def steps(**arguments):
    step = toy_step(task=Matches(), **{**SGD, "clip_norm": 0.1, **arguments})
    metrics, weights = run_steps(step, STEPS)
    return metrics_by_name(metrics), weights


@pytest.fixture(scope="module")
def whole():
    return steps()


def assert_same(ours, theirs, atol=1e-6):
    for name in theirs[0]:
        np.testing.assert_allclose(ours[0][name], theirs[0][name], rtol=5e-6, atol=atol, err_msg=name)
    for one, other in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(one, other, atol=atol)


def test_it_is_the_loss_of_the_whole_batch(whole):
    model, features = toy_model(dropout=0.25), batch(0)
    with tf.GradientTape() as tape:
        loss, weight = loss_of_batch(model, Matches(), features)
        mean = loss / weight
    gradients = tape.gradient(mean, [v.value for v in model.trainable_variables])
    norm = np.sqrt(sum((tf.convert_to_tensor(g).numpy() ** 2).sum() for g in gradients if g is not None))
    first = {name: column[0] for name, column in whole[0].items()}
    assert 1 < first["weight_sum"] == float(weight) < BATCH
    assert first["loss_sum"] == pytest.approx(float(loss), rel=1e-5)
    assert first["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert first["real_tokens"] == features["token_ids"].size


@pytest.mark.parametrize("division", mostly_slow(DIVISIONS, ["4 microbatches"]))
def test_replicas_and_microbatches_equal_one_device(whole, division):
    assert_same(steps(**DIVISIONS[division]), whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [{}, {"replicas": 2, "num_microbatches": 2}], ids=["one device", "2 x 2"]
)
def test_compiled_it_is_the_same(whole, arguments):
    assert_same(steps(jit_compile=True, **arguments), whole, atol=1e-5)


def test_what_compares_is_told_by_what_it_has():
    assert isinstance(Matches(), ComparesExamples) and not isinstance(CausalLM(), ComparesExamples)
