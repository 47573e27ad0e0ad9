"""Texts of none, one or many classes: learned packed or one by one, told, and served."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tests.tasks.test_classification import Reviews, batch_of, model_of, rows_of, write_reviews
from tests.tasks.test_contrastive import WORDS
from tests.training.toy import DIVISIONS, assert_same_training, trained_on_rows
from tfllm.commands.main import main
from tfllm.config import ConfigError, config_from_mapping
from tfllm.data.errors import DataError
from tfllm.data.record import Record
from tfllm.evaluation.classification import multi_label_metrics
from tfllm.tasks.examples.labels import ClassSetLabels, label_names
from tfllm.tasks.multi_label import MultiLabel
from tfllm.tokenizers import WordPieceTokenizer


class Tags(Reviews):
    """The same texts; their classes are the words that they begin with, none to three of them."""

    def __init__(self):
        super().__init__()
        for number, row in enumerate(self.rows):
            row["label"] = ";".join(row["text"].split()[: number % 4])


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer.train([" ".join(WORDS)] * 4, vocab_size=200)


def task_of(**settings):
    """One of so many classes that their bits need two numbers."""
    names = tuple([*WORDS, *(f"never {i}" for i in range(40))][:40])
    return MultiLabel(class_names=names, label_separator=";", **settings)


@pytest.fixture(scope="module", params=["plain", "weighed"])
def task(request):
    weighed = {"class_weights": {WORDS[0]: 3.0}, "label_smoothing": 0.2}
    return task_of(**weighed if request.param == "weighed" else {})


@pytest.fixture(scope="module")
def stores(task, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return {packing: rows_of(task, tokenizer, folder, packing, Tags()) for packing in (True, False)}


def test_the_loss_is_the_mean_of_the_classes_packed_or_not(task, stores, tokenizer):
    """`torch.nn.BCEWithLogitsLoss` by its documented formula, each class weighed, divided by the weights."""
    model, said = model_of(tokenizer, num_classes=40, multi_label=True, pooling="mean"), {}
    for packing, store in stores.items():
        features = batch_of(task, store)
        outputs = model(features)
        real = features["example_ids"].numpy() >= 0
        logits, labels, weights = (
            x.numpy()[real].astype(np.float64)
            for x in (outputs["logits"], features["labels"], features["weights"])
        )
        smoothed = labels * (1 - task.label_smoothing) + task.label_smoothing / 2
        yes, no = np.log1p(np.exp(-logits)), np.log1p(np.exp(logits))
        losses = (task.class_weights * (smoothed * yes + (1 - smoothed) * no)).mean(axis=-1)
        assert float(task.loss(model, features, outputs)["loss"]) == pytest.approx(
            (weights * losses).sum(), rel=1e-5
        )
        total = weights.sum() * task.class_weights.mean()
        assert float(task.weights(features)["loss"]) == pytest.approx(total, rel=1e-6)
        order = np.argsort(features["example_ids"].numpy()[real])
        found = [{task.class_names[c] for c in np.flatnonzero(row)} for row in labels[order]]
        assert found == [set(filter(None, row["label"].split(";"))) for row in Tags().rows]
        said[packing] = logits[order]
    np.testing.assert_allclose(said[True], said[False], atol=2e-6)


@pytest.mark.slow
def test_replicas_and_microbatches_equal_one_device(tokenizer, tmp_path):
    task = task_of(class_weights={WORDS[0]: 3.0}, label_smoothing=0.2)
    store = rows_of(task, tokenizer, tmp_path, source=Tags())

    def make(dropout):
        return model_of(tokenizer, dropout=dropout, num_classes=40)

    one, other = (trained_on_rows(task, store, make, **division) for division in ({}, DIVISIONS["2 x 2"]))
    assert_same_training(one, other, atol=2e-6)


def test_metrics_are_those_of_their_definitions():
    said = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]], bool)
    meant = np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]], bool)
    found = multi_label_metrics(said, meant)
    assert found["f1_micro"] == pytest.approx(2 * 2 / (3 + 3))
    assert found["f1_macro"] == pytest.approx((1 + 2 / 3 + 0) / 3)  # nobody says or means the last
    assert found["exact_match"] == pytest.approx(1 / 3)
    nothing = multi_label_metrics(np.zeros([2, 2], bool), np.zeros([2, 2], bool))
    assert (nothing["f1_micro"], nothing["exact_match"]) == (0.0, 1.0)
    assert np.isnan(multi_label_metrics(np.zeros([0, 2], bool), np.zeros([0, 2], bool))["f1_macro"])


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("a;b", ["a", "b"]),
        (" a ; b; ;a", ["a", "b"]),
        ("", []),
        (["a, b", 3, True], ["a, b", "3", "true"]),
        ([], []),
        (7, ["7"]),
    ],
)
def test_classes_are_a_list_or_a_text(value, names):
    assert label_names(Record({"label": value}), ";") == names


@pytest.mark.parametrize("value", [None, 0.5, [""], [["a"]], {"a": 1}])
def test_what_names_no_class_is_told(value):
    with pytest.raises(DataError, match=r"'label' must be a list of names .* with ';' between them"):
        label_names(Record({"label": value}, "tags.jsonl:4"), ";")


@pytest.mark.parametrize("count", [2, 31, 32, 62, 63])
def test_each_class_has_its_bit(count):
    names = [f"class {i}" for i in range(count)]
    labels = ClassSetLabels(names, ",")
    task = MultiLabel(class_names=names)
    for chosen in ({0}, {count - 1}, set(range(count)), set(range(0, count, 3)), set()):
        bits = labels.of(Record({"label": [names[i] for i in chosen]}))
        assert all(0 <= value < 2**31 for value in bits.values())
        rows = {name: tf.constant([[value]], tf.int32) for name, value in bits.items()}
        assert set(np.flatnonzero(task.features(rows)["labels"][0, 0])) == chosen


@pytest.mark.slow
def test_from_a_csv_to_a_served_classifier(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_reviews(tmp_path)
    rng = np.random.default_rng(1)
    lines = ["review,stars"]
    for _ in range(200):
        kinds = [kind for kind in ("fine", "poor", "odd") if rng.random() < 0.4]
        lines.append(f"{' '.join([*rng.choice(WORDS, 2), *kinds])},{'|'.join(kinds)}")
    (tmp_path / "reviews.csv").write_text("\n".join(lines))
    yaml = (tmp_path / "reviews.yaml").read_text().replace("best_metric: accuracy", "best_metric: loss")
    task = '{type: classification, multi_label: true, label_separator: "|"}'
    (tmp_path / "reviews.yaml").write_text(yaml.replace("task: classification", f"task: {task}"))
    assert main(["train", "reviews.yaml"]) == 0
    counts = {kind: sum(kind in line.split(",")[1] for line in lines) for kind in ("fine", "odd", "poor")}
    shown = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    assert f"classes: {shown}\n" in capfd.readouterr().err
    run = tmp_path / "runs/reviews"
    said = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    said = [line for line in said if line["split"] == "validation"]
    assert said[-1]["f1_micro"] > 0.9 > said[0]["f1_micro"] and said[-1]["exact_match"] > 0.8
    lm = tfllm.load(run, jit_compile=False)
    texts = ["bat con", "bat con fine odd", "poor bat", ""]
    found = lm.classify(texts)
    assert [each["labels"] for each in found[:3]] == [[], ["fine", "odd"], ["poor"]]
    [exported] = (run / "export").iterdir()
    answers = tf.saved_model.load(str(exported)).signatures["serving_default"](text=tf.constant(texts))
    assert "label" not in answers and [x.decode() for x in answers["classes"].numpy()[3]] == [
        "fine",
        "odd",
        "poor",
    ]
    np.testing.assert_allclose(
        answers["scores"], [list(each["scores"].values()) for each in found], atol=1e-5
    )


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"balanced": True}, "task.balanced=true counts texts by their one class"),
        ({"label_separator": ""}, "task.label_separator= must be the character or the text between names"),
    ],
    ids=["balanced", "no separator"],
)
def test_what_cannot_be_is_told_by_the_config(section, words):
    mapping = {
        "name": "m",
        "task": {"type": "classification", "multi_label": True, **section},
        "model": "encoder",
        "data": {"train": {"type": "csv", "path": "text.csv"}},
    }
    with pytest.raises(ConfigError, match=re.escape(words)):
        config_from_mapping(mapping)
