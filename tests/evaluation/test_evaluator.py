import math

import numpy as np
import pytest
import tensorflow as tf

from tests.training.toy import LENGTH, VOCAB, batches, toy_model
from tfllm.evaluation.evaluator import Evaluator
from tfllm.evaluation.metrics import bits_per_byte, perplexity
from tfllm.tasks.causal_lm import CausalLM

LENGTHS = np.arange(VOCAB, dtype=np.int32)


def evaluate(model, batch_size, jit_compile=False):
    rows = batches(0, 3).unbatch().batch(batch_size)  # the last batch may be short
    evaluator = Evaluator(
        model=model,
        task=CausalLM(token_byte_lengths=LENGTHS),
        batches=lambda: rows,
        jit_compile=jit_compile,
    )
    first = evaluator.evaluate()
    assert evaluator.evaluate() == first, "an evaluation starts from the beginning each time"
    return first


@pytest.fixture(scope="module")
def model():
    return toy_model(dropout=0.5)


def test_metrics_do_not_depend_on_the_batch_size(model):
    whole = evaluate(model, 24)
    for batch_size in (5, 8):
        assert evaluate(model, batch_size) == pytest.approx(whole, rel=1e-6)
    # A mean of means would: the batches weigh very different amounts.
    parts = [b["loss_weights"].numpy().sum() for b in batches(0, 3).unbatch().batch(5)]
    assert max(parts) > 2 * min(parts)


def test_metrics_are_those_of_numpy(model):
    rows = next(iter(batches(0, 3).unbatch().batch(24)))
    logits = model({"token_ids": rows["token_ids"]})["logits"].numpy().astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets, weights = rows["targets"].numpy(), rows["loss_weights"].numpy().astype(np.float64)
    losses = -np.take_along_axis(logs, targets[..., None], -1)[..., 0]
    loss = (losses * weights).sum() / weights.sum()
    metrics = evaluate(model, 8)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    num_bytes = (LENGTHS[targets] * weights).sum()
    assert metrics["bits_per_byte"] == pytest.approx(
        (losses * weights).sum() / math.log(2) / num_bytes, rel=1e-5
    )
    assert rows["targets"].shape == (24, LENGTH)


def test_sums_are_added_in_double_precision(model):
    class Ones:
        def evaluation_sums(self, model, features, outputs):
            return {"count": tf.constant(1.0), "large": tf.constant(2.0**24)}

        def predictions(self, model, features, outputs):
            return {}

        def joined(self, predictions):
            return predictions

        def evaluation_metrics(self, sums, predictions):
            return sums

    data = tf.data.Dataset.from_tensors({"token_ids": tf.ones([1, 2], tf.int32)}).repeat(5)
    evaluator = Evaluator(model=model, task=Ones(), batches=lambda: data, jit_compile=False)
    evaluator.evaluate()
    assert evaluator.evaluate() == {"count": 5.0, "large": 5 * 2.0**24}


def test_formulas_and_their_edges():
    assert bits_per_byte(8 * math.log(2), 4) == pytest.approx(2.0)
    assert math.isnan(bits_per_byte(1.0, 0))
    assert perplexity(0.0) == 1.0
    assert perplexity(1e4) == math.inf
