import math

import numpy as np
import pytest
import tensorflow as tf

from tfllm.tasks.causal_lm import CausalLM

V = 7
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=[2, 5, V]).astype(np.float32)
FEATURES = {
    "targets": tf.constant(RNG.integers(0, V, [2, 5]), tf.int32),
    "loss_weights": tf.constant([[1.0, 1.0, 0.5, 0.0, 0.0], [2.0, 1.0, 1.0, 1.0, 0.0]]),
}
OUTPUTS = {"hidden_states": tf.constant(LOGITS)}
BYTES = np.array([0, 0, 1, 2, 3, 4, 5], np.int32)


class Model:
    """Its hidden states are its logits."""

    def logits(self, hidden_states):
        return hidden_states


def losses_by_hand():
    logs = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    return -np.take_along_axis(logs, FEATURES["targets"].numpy()[..., None], -1)[..., 0]


def test_the_loss_is_two_sums():
    loss, weight = CausalLM().loss(Model(), FEATURES, OUTPUTS)["loss"], CausalLM().weights(FEATURES)["loss"]
    weights = FEATURES["loss_weights"].numpy()
    np.testing.assert_allclose(loss, (losses_by_hand() * weights).sum(), rtol=1e-6)
    assert float(weight) == weights.sum() == 7.5
    assert loss.dtype == weight.dtype == tf.float32


def test_a_loss_that_is_not_a_number_is_not_hidden():
    logits = LOGITS.copy()
    logits[0, 0] = np.nan
    assert np.isnan(CausalLM().loss(Model(), FEATURES, {"hidden_states": tf.constant(logits)})["loss"])


def test_evaluation_sums_and_metrics():
    task = CausalLM(token_byte_lengths=BYTES)
    sums = {k: float(v) for k, v in task.evaluation_sums(Model(), FEATURES, OUTPUTS).items()}
    weights = FEATURES["loss_weights"].numpy()
    num_bytes = (BYTES[FEATURES["targets"].numpy()] * weights).sum()
    loss_sum = (losses_by_hand() * weights).sum()
    assert sums == pytest.approx({"loss": loss_sum, "weight": 7.5, "bytes": num_bytes}, rel=1e-6)
    metrics = task.evaluation_metrics(sums)
    assert metrics == pytest.approx(
        {
            "loss": loss_sum / 7.5,
            "perplexity": math.exp(loss_sum / 7.5),
            "tokens": 7.5,
            "bits_per_byte": loss_sum / math.log(2) / num_bytes,
        },
        rel=1e-6,
    )


def test_bits_per_byte_is_left_out_where_bytes_are_unknown():
    sums = CausalLM().evaluation_sums(Model(), FEATURES, OUTPUTS)
    assert set(sums) == {"loss", "weight"}
    assert "bits_per_byte" not in CausalLM().evaluation_metrics({"loss": 1.0, "weight": 2.0})
