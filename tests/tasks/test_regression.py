"""Numbers of texts: learned packed or one by one, told, and served."""

import json

import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tests.tasks.test_classification import Reviews, batch_of, model_of, rows_of, write_reviews
from tests.tasks.test_contrastive import WORDS
from tests.training.toy import DIVISIONS, assert_same_training, trained_on_rows
from tfllm.commands.main import main
from tfllm.evaluation.regression import regression_metrics
from tfllm.generation.errors import GenerationError
from tfllm.tasks.regression import Regression
from tfllm.tokenizers import WordPieceTokenizer


class Ratings(Reviews):
    """The same texts, and how many words they have, less one half."""

    def __init__(self):
        super().__init__()
        for row in self.rows:
            row["label"] = str(len(row["text"].split()) - 0.5)


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer.train([" ".join(WORDS)] * 4, vocab_size=200)


@pytest.fixture(scope="module", params=[False, True], ids=["one text", "pairs"])
def task(request, tokenizer):
    return Regression(tokenizer=tokenizer, pairs=request.param)


@pytest.fixture(scope="module")
def stores(task, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return {packing: rows_of(task, tokenizer, folder, packing, Ratings()) for packing in (True, False)}


def test_the_loss_is_the_weighed_mean_square_packed_or_not(task, stores, tokenizer):
    model, sums = model_of(tokenizer, num_classes=1, pooling="mean"), {}
    for packing, store in stores.items():
        features = batch_of(task, store)
        outputs = model(features)
        real = features["example_ids"].numpy() >= 0
        said, labels, weights = (
            x.numpy()[real] for x in (outputs["logits"][..., 0], features["labels"], features["weights"])
        )
        expected = (weights * (said - labels) ** 2).sum()
        assert float(task.loss(model, features, outputs)["loss"]) == pytest.approx(expected, rel=1e-5)
        assert float(task.weights(features)["loss"]) == weights.sum() == sum(1 + n % 3 for n in range(60))
        order = np.argsort(features["example_ids"].numpy()[real])
        assert labels[order].tolist() == [n % 9 + 0.5 for n in range(60)]
        sums[packing] = said[order]
    np.testing.assert_allclose(sums[True], sums[False], atol=2e-6)


@pytest.mark.slow
def test_replicas_and_microbatches_equal_one_device(tokenizer, tmp_path):
    task = Regression(tokenizer=tokenizer)
    store = rows_of(task, tokenizer, tmp_path, source=Ratings())

    def make(dropout):
        return model_of(tokenizer, dropout=dropout, num_classes=1)

    one, other = (
        trained_on_rows(task, store, make, learning_rate=0.1, **division)
        for division in ({}, DIVISIONS["2 x 2"])
    )
    assert_same_training(one, other, atol=2e-6)


def test_metrics_are_those_of_their_definitions():
    labels = np.array([1.0, 2.0, 2.0, 5.0])
    found = regression_metrics(np.array([0.0, 3.0, 1.0, 4.0]), labels)
    # About the means 2 and 2.5: 2·1.5 + 1·(−0.5) + 1·0.5 + 2·2.5 over the root of (4+1+1+4)·(2.25+.25+.25+6.25)
    assert found["pearson"] == pytest.approx(8.0 / np.sqrt(10 * 9))
    # Ranks 1 3 2 4 and 1 2.5 2.5 4: 1.5·1.5 + 0.5·0 + 0.5·0 + 1.5·1.5 over the root of 5 · 4.5
    assert found["spearman"] == pytest.approx(4.5 / np.sqrt(5 * 4.5))
    assert found["mean_absolute_error"] == pytest.approx(1.0)
    assert regression_metrics(np.ones(4), labels)["pearson"] == 0.0
    assert np.isnan(regression_metrics(np.zeros(0), np.zeros(0))["spearman"])


def test_metrics_equal_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(50):
        values, labels = rng.normal(size=30), rng.integers(6, size=30).astype(float)
        found = regression_metrics(values, labels)
        assert found["pearson"] == pytest.approx(stats.pearsonr(values, labels)[0])
        assert found["spearman"] == pytest.approx(stats.spearmanr(values, labels)[0])


@pytest.fixture
def reviews(tmp_path, monkeypatch):
    """A folder with texts and numbers, and what trains on them."""
    monkeypatch.chdir(tmp_path)
    write_reviews(tmp_path)
    yaml = (tmp_path / "reviews.yaml").read_text()
    yaml = yaml.replace("task: classification", "task: regression").replace("accuracy", "pearson")
    (tmp_path / "reviews.yaml").write_text(yaml)
    return tmp_path


@pytest.mark.slow
def test_from_a_csv_to_a_served_number(reviews, capfd):
    assert main(["train", "reviews.yaml"]) == 0
    assert "labels: 200 numbers from 1 to 10, mean 6.69" in capfd.readouterr().err
    run = reviews / "runs/reviews"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    said = [line for line in lines if line["split"] == "validation"]
    assert said[-1]["pearson"] > 0.9 and said[-1]["spearman"] > 0.7
    assert said[-1]["mean_absolute_error"] < 2 < said[0]["mean_absolute_error"]
    lm = tfllm.load(run, jit_compile=False)
    texts = ["bat con fine", "fon hust hill odd", "", "bat " * 40]
    found = lm.regress(texts)
    assert found[0] > 7 > 4 > found[1] and lm.regress(texts[0]) == pytest.approx(found[0], abs=1e-5)
    assert lm.class_names is None
    with pytest.raises(GenerationError, match=r"classifies no texts; take lm\.regress"):
        lm.classify("bat")
    [exported] = (run / "export").iterdir()
    answers = tf.saved_model.load(str(exported)).signatures["serving_default"](text=tf.constant(texts))
    np.testing.assert_allclose(answers["value"], found, atol=1e-5)
    assert answers["tokens_dropped"].numpy().tolist() == [0, 0, 0, 26]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("review,stars\nbat,3\ncon,3.0", "all 2 records have the label 3, and of that nothing is learned"),
        (
            "review,stars\nbat,3\ncon,good",
            "reviews.csv:3: 'label' must be a number, not 'good'; mend the record",
        ),
        ("review,stars\nbat,3\ncon,", "reviews.csv:3: 'label' must be a number, not ''"),
        ("review,stars\nbat,nan\ncon,2", "reviews.csv:2: 'label' must be a number, not 'nan'"),
        ("review,stars\nbat,1e39\ncon,2", "reviews.csv:2: 'label' must be a number, not '1e39'"),
        ("review,rating\nbat,1", "no column 'stars', which data.train.columns.label names"),
    ],
    ids=["one number", "a name", "none", "nan", "too large", "no column"],
)
def test_labels_that_are_none_are_told_at_once(reviews, capfd, lines, words):
    (reviews / "reviews.csv").write_text(lines)
    assert main(["train", "reviews.yaml"]) == 1
    error = capfd.readouterr().err
    assert words in error and "Traceback" not in error, error
