"""Predictions find their way back to the records that they were made of."""

import numpy as np
import pytest
import tensorflow as tf

from tests.data.fakes import ByteTokenizer, Labelled, LabelledSource
from tests.tiny import tiny_decoder
from tfllm.data.pipeline import evaluation_batches
from tfllm.data.prepare import prepare_rows
from tfllm.evaluation.evaluator import Evaluator
from tfllm.training.distribution import mirrored, one_device, shares_of


class Echo:
    """Says of each example what its rows hold, and counts."""

    def evaluation_sums(self, model, features, outputs):
        return {"real": tf.reduce_sum(tf.cast(features["example_ids"] >= 0, tf.float32))}

    def predictions(self, model, features, outputs):
        likeliest = tf.argmax(outputs["logits"], -1, tf.int32)
        segments = {"label": features["labels"], "score": features["scores"]}
        return {"segments": segments, "tokens": {"ids": features["token_ids"], "likeliest": likeliest}}

    def joined(self, predictions):
        return predictions

    def evaluation_metrics(self, sums, predictions):
        assert sums["real"] == len(predictions)
        return {"mean_label": float(np.mean([prediction.values["label"] for prediction in predictions]))}


@pytest.fixture(scope="module", params=["packed", "padded"])
def store(request, tmp_path_factory):
    packed = request.param == "packed"
    return prepare_rows(
        source=LabelledSource(50),
        tokenizer=ByteTokenizer(),
        seq_len=24,
        packing=packed,
        maker=Labelled(packing=packed, segments=4 if packed else 1),
        cache_dir=tmp_path_factory.mktemp("rows"),
    )


def evaluation(store, batch_size, replicas=1, jit_compile=False):
    strategy = one_device() if replicas == 1 else mirrored(replicas)
    with strategy.scope():
        model = tiny_decoder(vocab_size=259)

    def rows(context=None):
        shares = None if context is None else shares_of(context, strategy)
        return evaluation_batches(
            store, batch_size=batch_size, num_shares=replicas, shares=shares, buckets=[12, 24]
        )

    batches = rows if replicas == 1 else lambda: strategy.distribute_datasets_from_function(rows)
    return Evaluator(
        model=model, task=Echo(), batches=batches, strategy=strategy, jit_compile=jit_compile
    ).run()


@pytest.fixture(scope="module")
def alone(store):
    return evaluation(store, 4)


def test_predictions_are_those_of_each_record_in_their_order(store, alone):
    records = list(LabelledSource(50).records())
    kept = [number for number, record in enumerate(records) if record.text("text")]
    assert [prediction.number for prediction in alone.predictions] == kept
    for prediction in alone.predictions:
        record = records[prediction.number]
        assert prediction.values["label"] == record.value("label")
        assert bytes(prediction.values["ids"].astype(np.uint8)).decode() == record.text("text")
        assert prediction.values["likeliest"].shape == prediction.values["ids"].shape
        assert prediction.values["score"] == np.float32(len(record.text("text")) / 7)
    assert alone.metrics["mean_label"] == pytest.approx(np.mean([records[n].value("label") for n in kept]))


@pytest.mark.parametrize(("batch_size", "replicas"), [(3, 1), (64, 1), (8, 2)])
def test_they_depend_on_neither_batch_size_nor_replicas(store, alone, batch_size, replicas):
    other = evaluation(store, batch_size, replicas)
    assert other.metrics == alone.metrics
    for one, two in zip(other.predictions, alone.predictions, strict=True):
        assert one.number == two.number and one.values.keys() == two.values.keys()
        for name in one.values:
            np.testing.assert_array_equal(one.values[name], two.values[name])


@pytest.mark.slow
def test_compiled_they_are_the_same_on_two_replicas(store, alone):
    other = evaluation(store, 8, 2, jit_compile=True)
    assert [p.number for p in other.predictions] == [p.number for p in alone.predictions]
    assert other.metrics == alone.metrics
