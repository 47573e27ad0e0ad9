"""Classes of texts: found in the records, learned packed or one by one, told, and served."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tests.tasks import rows
from tests.tasks.test_contrastive import WORDS
from tests.tiny import randomized
from tests.training.toy import DIVISIONS, assert_same_training, trained_on_rows
from tfllm import experiment
from tfllm.commands.main import main
from tfllm.config import ConfigError, config_from_mapping
from tfllm.data.errors import DataError
from tfllm.data.pipeline import evaluation_batches
from tfllm.data.record import Record
from tfllm.data.sources import Source
from tfllm.data.split import split_of
from tfllm.evaluation.classification import classification_metrics, confusion_matrix
from tfllm.evaluation.evaluator import Evaluator
from tfllm.export.bert_packer import BertPacker
from tfllm.language_model.language_model import LanguageModel
from tfllm.models.encoder import Encoder
from tfllm.tasks.classification import Classification
from tfllm.tasks.errors import TaskError
from tfllm.tokenizers import WordPieceTokenizer
from tfllm.tokenizers.byte import ByteTokenizer

T = 14
NAMES = ("bad", "good", "so so")


class Reviews(Source):
    """Texts of 1 to 9 words whose class is that of their first word; the class `so so` is rare."""

    def __init__(self, count=60):
        rng = np.random.default_rng(0)
        self.rows = []
        for number in range(count):
            words = [str(word) for word in rng.choice(WORDS, 1 + number % 9)]
            place = 2 if number % 10 == 9 else WORDS.index(words[0]) % 2
            other = " ".join(rng.choice(WORDS, 1 + number % 3))
            row = {"text": " ".join(words), "text_pair": other, "label": NAMES[place]}
            self.rows.append({**row, "weight": 1 + number % 3})

    def records(self):
        return (Record(row) for row in self.rows)

    def describe(self):
        return "reviews"

    def fingerprint(self):
        return json.dumps(self.rows)


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer.train([" ".join(WORDS)] * 4, vocab_size=200)


def rows_of(task, tokenizer, folder, packing=True, source=None):
    return rows.rows_of(task, tokenizer, folder, source or Reviews(), seq_len=T, packing=packing)


KINDS = {
    "one text": {},
    "pairs": {"pairs": True},
    "weighed": {"class_weights": {"so so": 4.0, "bad": 0.5}, "label_smoothing": 0.2},
}


@pytest.fixture(scope="module", params=KINDS)
def task(request, tokenizer):
    return Classification(class_names=NAMES, **KINDS[request.param])


@pytest.fixture(scope="module")
def stores(task, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return {packing: rows_of(task, tokenizer, folder, packing) for packing in (True, False)}


def model_of(tokenizer, seed=3, **settings):
    return randomized(
        Encoder(
            **{
                **{"vocab_size": tokenizer.vocab_size, "num_layers": 1, "hidden_dim": 16, "num_heads": 2},
                **{"max_seq_len": T, "head": "sequence_classification", "num_classes": 3, **settings},
            }
        ),
        seed=seed,
    )


def batch_of(task, store, size=64):
    [batch] = evaluation_batches(store, batch_size=size, transform=task.features, aligned=task.aligned)
    return batch


def test_rows_hold_each_text_its_class_and_its_weight(task, stores, tokenizer):
    store = stores[True]
    rows = store.read(range(store.num_rows))
    source = Reviews().rows
    found = 0
    for row in range(store.num_rows):
        for segment, number in enumerate(rows["example_ids"][row]):
            if number < 0:
                continue
            found += 1
            own = rows["segment_ids"][row] == segment + 1
            ids = rows["token_ids"][row][own].tolist()
            assert (ids[0], ids[-1]) == (tokenizer.bos_id, tokenizer.eos_id)
            texts = [source[number]["text"]] + [source[number]["text_pair"]] * task.pairs
            said = tokenizer.decode(ids).split()
            assert said == " ".join(texts).split() or len(ids) == T
            assert NAMES[rows["labels"][row, segment]] == source[number]["label"]
            assert rows["weights"][row, segment] == source[number]["weight"]
            if task.pairs:
                types = rows["token_type_ids"][row][own]
                assert types[0] == 0 and types[-1] == 1 and (np.diff(types) >= 0).all()
    assert found == len(source) and store.num_rows < len(source)


def test_pairs_are_cut_as_the_exported_packer_cuts_them(tokenizer):
    maker = Classification(class_names=NAMES, pairs=True).examples_of(tokenizer, seq_len=T, packing=False)
    pack = BertPacker(tokenizer)
    for first, second in [(1, 1), (30, 2), (2, 30), (30, 30), (5, 6), (6, 5), (6, 30)]:
        parts = [list(range(10, 10 + first)), list(range(50, 50 + second))]
        ids, types = maker.joined(parts)
        theirs = pack([tf.ragged.constant([part], tf.int32) for part in parts], T)
        real = theirs["input_mask"][0].numpy() > 0
        assert ids.tolist() == theirs["input_word_ids"][0].numpy()[real].tolist()
        assert types.tolist() == theirs["input_type_ids"][0].numpy()[real].tolist()


POOLED = {"first": "tanh", "mean": "none", "last": "relu"}


@pytest.mark.parametrize("pooling", POOLED)
def test_packed_logits_are_those_of_each_text_alone(stores, task, tokenizer, pooling):
    model = model_of(tokenizer, pooling=pooling, pooler=POOLED[pooling])
    logits = {}
    for packing in (True, False):
        features = batch_of(task, stores[packing])
        said = model(features)["logits"].numpy()
        assert said.shape == (*features["example_ids"].shape, 3)
        logits[packing] = {
            int(number): said[place]
            for place, number in np.ndenumerate(features["example_ids"])
            if number >= 0
        }
    assert len(logits[True]) == 60
    for number, row in logits[True].items():
        np.testing.assert_allclose(row, logits[False][number], atol=2e-6)
    rows = stores[False].read(range(2))
    alone = {
        name: tf.constant(rows[name])
        for name in ("token_ids", "token_type_ids", "segment_ids")
        if name in rows
    }
    alone["padding_mask"] = alone["segment_ids"] > 0
    np.testing.assert_allclose(
        model(alone)["logits"], [logits[False][int(n)] for n in rows["example_ids"][:, 0]], atol=2e-6
    )


def torch_like(logits, labels, by_class, smoothing):
    """`torch.nn.CrossEntropyLoss(weight=by_class, label_smoothing=smoothing, reduction="none")` (its documentation)."""
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    own = -by_class[labels] * logs[np.arange(len(labels)), labels]
    return (1 - smoothing) * own - smoothing * (logs * by_class).mean(axis=-1)


def test_the_loss_is_weighed_and_smoothed_as_pytorch_has_it(task, stores, tokenizer):
    model = model_of(tokenizer)
    features = batch_of(task, stores[True])
    outputs = model(features)
    real = features["example_ids"].numpy() >= 0
    labels, weights = features["labels"].numpy()[real], features["weights"].numpy()[real]
    logits = outputs["logits"].numpy()[real].astype(np.float64)
    losses = torch_like(logits, labels, task.class_weights.astype(np.float64), task.label_smoothing)
    assert float(task.loss(model, features, outputs)["loss"]) == pytest.approx(
        (losses * weights).sum(), rel=1e-5
    )
    total = (task.class_weights[labels] * weights).sum()
    assert float(task.weights(features)["loss"]) == pytest.approx(total, rel=1e-6)
    assert labels.size == 60 and len(set(weights)) == 3


@pytest.fixture(scope="module")
def weighed(tokenizer, tmp_path_factory):
    task = Classification(class_names=NAMES, **KINDS["weighed"])
    return task, rows_of(task, tokenizer, tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def whole(weighed, tokenizer):
    return trained_on_rows(*weighed, lambda dropout: model_of(tokenizer, dropout=dropout))


@pytest.mark.parametrize(
    "division",
    ["4 microbatches", pytest.param("2 x 2", marks=pytest.mark.slow)],
)
def test_replicas_and_microbatches_equal_one_device(weighed, tokenizer, whole, division):
    made = (*weighed, lambda dropout: model_of(tokenizer, dropout=dropout))
    assert_same_training(whole, trained_on_rows(*made, **DIVISIONS[division]), atol=2e-6)


def test_every_example_counts_once_whatever_the_batch_size(weighed, tokenizer):
    task, store = weighed
    model, said = model_of(tokenizer), []
    for size in (3, 64):
        evaluation = Evaluator(
            model=model,
            task=task,
            batches=lambda size=size: evaluation_batches(store, batch_size=size, transform=task.features),
            jit_compile=False,
        ).run()
        assert [each.number for each in evaluation.predictions] == list(range(60))
        said.append(evaluation.metrics)
    assert said[0] == pytest.approx(said[1], rel=1e-5) and said[0]["examples"] == 60
    labels = [NAMES.index(row["label"]) for row in Reviews().rows]
    assert [int(each.values["label"]) for each in evaluation.predictions] == labels


def test_metrics_are_those_of_their_definitions():
    labels = np.array([0, 0, 0, 1, 1, 3])
    probabilities = np.eye(5)[[0, 0, 1, 1, 0, 3]] * 0.6 + 0.08
    found = classification_metrics(probabilities, labels)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["f1_macro"] == pytest.approx(
        (4 / 6 + 2 / 4 + 1) / 3
    )  # classes that nobody says or means are left out
    assert found["calibration_error"] == pytest.approx(abs(0.68 - 4 / 6))
    # Gorodkin's correlation, summed by hand: (4·6 − (3·3 + 2·2 + 1·1)) / sqrt((36 − 14)·(36 − 14))
    assert found["mcc"] == pytest.approx((4 * 6 - 14) / 22)
    same = classification_metrics(np.tile([[0.9, 0.1]], [4, 1]), np.array([0, 1, 0, 1]))
    assert (same["accuracy"], same["mcc"]) == (0.5, 0.0)
    assert np.isnan(classification_metrics(np.zeros([0, 2]), np.zeros([0], int))["accuracy"])
    np.testing.assert_array_equal(
        confusion_matrix(np.array([1, 1, 0]), np.array([0, 1, 0]), 2), [[1, 1], [0, 1]]
    )


def test_metrics_equal_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for _ in range(50):
        probabilities = rng.dirichlet(np.ones(4), size=30)
        labels, said = rng.integers(4, size=30), probabilities.argmax(axis=1)
        found = classification_metrics(probabilities, labels)
        assert found["f1_macro"] == pytest.approx(sklearn.f1_score(labels, said, average="macro"))
        assert found["mcc"] == pytest.approx(sklearn.matthews_corrcoef(labels, said))


YAML = """
name: reviews
task: classification
tokenizer: {type: wordpiece, vocab_size: 260}
model: {type: encoder, num_layers: 1, hidden_dim: 16, num_heads: 2, norm_placement: pre, pooling: mean}
data:
  train: {type: csv, path: reviews.csv, columns: {text: review, label: stars}}
  validation_fraction: 0.3
  seq_len: 16
  num_workers: 1
optimizer: {learning_rate: 0.02, schedule: constant}
training: {steps: 80, global_batch_size: 8, jit_compile: false, log_every: 20, evaluate_every: 40, best_metric: accuracy}
export: {at_end: true}
"""


def write_reviews(folder, count=200):
    rng = np.random.default_rng(1)
    lines = ["review,stars"]
    for number in range(count):
        words = [str(word) for word in rng.choice(WORDS, number % 7)]
        lines.append(
            f"{' '.join([*words, ('fine', 'poor', 'odd')[number % 3]])},{('10', '9', '1')[number % 3]}"
        )
    (folder / "reviews.csv").write_text("\n".join(lines))
    (folder / "reviews.yaml").write_text(YAML)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reviews")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_reviews(folder)
        assert main(["train", "reviews.yaml"]) == 0
    return folder / "runs/reviews"


def test_from_a_csv_to_a_served_classifier(run, monkeypatch, capfd):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    said = [line for line in lines if line["split"] == "validation"]
    assert said[-1]["accuracy"] > 0.9 > said[0]["accuracy"] and said[-1]["f1_macro"] > 0.9
    lm = tfllm.load(run, jit_compile=False)
    assert lm.class_names == ("1", "9", "10") == lm.config.model.class_names  # by number, not by letter
    texts = ["bat con fine", "fon hust hill odd", "poor"]
    found = lm.classify(texts)
    assert [each["label"] for each in found] == ["10", "1", "9"]
    for each in found:
        assert sum(each["scores"].values()) == pytest.approx(1.0, abs=1e-5)
        assert each["score"] == max(each["scores"].values()) == each["scores"][each["label"]]
    assert sorted(each.name for each in (run / "pictures").iterdir()) == [
        "confusion_validation.png",
        "lengths.png",
    ]
    [exported] = (run / "export").iterdir()
    served = tf.saved_model.load(str(exported)).signatures["serving_default"]
    answers = served(text=tf.constant([*texts, "", "bat " * 40]))
    assert [x.decode() for x in answers["label"].numpy()[:3]] == ["10", "1", "9"]
    assert [x.decode() for x in answers["classes"].numpy()[4]] == ["1", "9", "10"]
    np.testing.assert_allclose(
        answers["scores"].numpy(),
        [list(each["scores"].values()) for each in lm.classify([*texts, "", "bat " * 40])],
        atol=1e-5,
    )
    assert answers["tokens_dropped"].numpy().tolist() == [0, 0, 0, 0, 26]
    assert served(text=tf.constant([], tf.string))["scores"].shape == (0, 3)
    monkeypatch.chdir(run.parents[1])
    capfd.readouterr()
    assert main(["evaluate", "runs/reviews"]) == 0
    line = json.loads(capfd.readouterr().out)
    assert line["accuracy"] == said[-1]["accuracy"] and line["own_rows"] is True


@pytest.mark.slow
def test_a_run_goes_on_and_one_begins_where_it_ended(run, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(run.parents[1])
    picture = run / "pictures/confusion_validation.png"
    drawn = picture.stat().st_mtime_ns
    assert main(["train", "reviews.yaml"]) == 0
    assert "already trained" in capfd.readouterr().err
    assert picture.stat().st_mtime_ns == drawn, "nothing was learned since"
    tail = ["tokenizer={type: pretrained}", "training.steps=1", "export.at_end=false"]
    more = [f"model={{type: pretrained, source: {run}}}", *tail]
    assert main(["train", "reviews.yaml", "--run-dir", str(tmp_path / "on"), *more]) == 0
    first = json.loads((tmp_path / "on/metrics.jsonl").read_text().splitlines()[0])
    assert first["accuracy"] > 0.9, "the classifier came along"
    other = tmp_path / "other.csv"
    other.write_text("review,stars\n" + "\n".join(f"bat {i},{'yes' if i % 2 else 'no'}" for i in range(40)))
    words = [*more, f"data.train.path={other}"]
    assert main(["train", "reviews.yaml", "--run-dir", str(tmp_path / "two"), *words]) == 2
    assert "those of the model, and the text has no, yes; write model.new_head=true" in capfd.readouterr().err
    words[0] = f"model={{type: pretrained, source: {run}, new_head: true}}"
    assert main(["train", "reviews.yaml", "--run-dir", str(tmp_path / "two"), *words]) == 0
    assert tfllm.load(tmp_path / "two", jit_compile=False).class_names == ("no", "yes")


@pytest.mark.parametrize("to", ["huggingface", "tfllm"])
@pytest.mark.parametrize(("pooler", "pooling"), [("tanh", "mean"), ("none", "first"), ("none", "mean")])
def test_a_checkpoint_is_the_start_whether_it_has_a_pooler_or_not(tokenizer, tmp_path, to, pooler, pooling):
    sizes = {"num_layers": 1, "hidden_dim": 16, "num_heads": 2, "max_seq_len": T, "pooler": pooler}
    given = {"name": "given", "model": {"type": "encoder", **sizes}, "tokenizer": "byte"}
    given = config_from_mapping({**given, "task": "contrastive", "data": {"seq_len": T}}, for_training=False)
    encoder = randomized(Encoder(vocab_size=tokenizer.vocab_size, **sizes))
    LanguageModel(encoder, tokenizer, given).save(tmp_path / "given", to=to)
    (tmp_path / "text.csv").write_text("text,label\nbat,a\ncon,b\n")
    config = config_from_mapping(
        {
            "name": "tuned",
            "task": "classification",
            "model": {"type": "pretrained", "source": str(tmp_path / "given"), "pooling": pooling},
            "data": {"train": {"type": "csv", "path": str(tmp_path / "text.csv")}, "seq_len": T},
        }
    )
    config = experiment.with_labels(experiment.expand(config), notify=lambda words: None)
    assert config.model.pooler == {"mean": "none", "first": "tanh"}[pooling]
    model = experiment.make_model(config, tokenizer.vocab_size)
    experiment.start_from_source(config, model, notify=lambda words: None)
    features = {"token_ids": tf.constant([[5, 6, 7]])}
    np.testing.assert_allclose(
        model(features)["hidden_states"], encoder(features)["hidden_states"], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            "review,stars\nbat,a\ncon,a",
            "all 2 records have the label 'a', and a classification needs two classes",
        ),
        (
            "review,rating\nbat,a",
            "no column 'stars', which data.train.columns.label names; the columns are 'review', 'rating'",
        ),
        (
            "review,stars\nbat,a\ncon,",
            r"reviews.csv:3: 'label' must be the name or the number of a class, not ''",
        ),
        (
            "review,stars\n" + "\n".join(f"bat,{i}" for i in range(30)),
            "each of the 30 records has a label of its own, such as '0': that is no class",
        ),
    ],
    ids=["one class", "no column", "no label", "no classes"],
)
def test_labels_that_are_none_are_told_at_once(tmp_path, monkeypatch, capfd, lines, words):
    monkeypatch.chdir(tmp_path)
    write_reviews(tmp_path)
    (tmp_path / "reviews.csv").write_text(lines)
    assert main(["train", "reviews.yaml"]) == 1
    error = capfd.readouterr().err
    assert words in error and "Traceback" not in error, error


def test_a_label_that_was_never_learned_is_named(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_reviews(tmp_path)
    (tmp_path / "held.csv").write_text("review,stars\nbat fine,10\ncon odd,eleven\nodd,2\nfon,eleven\n")
    held = "data.validation={type: csv, path: held.csv, columns: {text: review, label: stars}}"
    assert main(["train", "reviews.yaml", held]) == 1
    error = capfd.readouterr().err
    assert (
        "held.csv:3: the label 'eleven' is none of those that the training text has: '1', '9', '10'; it stands in"
        " 2 records to validate on, and 1 other labels too"
    ) in error


def test_a_class_of_which_all_is_held_out_is_told(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_reviews(tmp_path)
    texts = (f"only {i}" for i in range(1000))
    held = next(text for text in texts if split_of(text, validation=0.3) == "validation")
    with (tmp_path / "reviews.csv").open("a") as file:
        file.write(f"\n{held},5")
    assert main(["train", "reviews.yaml", "--dry-run"]) == 0
    assert "class '5': no record is left to train on, all 1 are held out" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"class_weights": {"a": -1}}, "task.class_weights.a=-1.0 must be a number that is not negative"),
        (
            {"class_weights": {"a": 2}, "balanced": True},
            "task.balanced=true finds what task.class_weights says",
        ),
        ({"label_smoothing": 1.0}, "task.label_smoothing"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_told_by_the_config(section, words):
    mapping = {
        "name": "m",
        "task": {"type": "classification", **section},
        "model": "encoder",
        "data": {"train": {"type": "text_files", "path": "text.txt"}},
    }
    with pytest.raises(ConfigError, match=re.escape(words)):
        config_from_mapping(mapping)


@pytest.mark.parametrize("types", [0, 1])
def test_a_model_without_token_types_learns_pairs_by_what_stands_between_them(tokenizer, tmp_path, types):
    """RoBERTa and DistilBERT are such; a tokenizer without a separator leaves nothing to tell two texts by."""
    source = tmp_path / "a.csv"
    source.write_text("text,text_pair,label\nbat,con,a\ncon,bat,b\n")
    config = config_from_mapping(
        {
            "name": "m",
            "task": {"type": "classification", "pairs": True},
            "model": {
                "type": "encoder",
                "initializer_range": 0.5,
                "num_token_types": types,
                "num_layers": 1,
                "hidden_dim": 16,
                "num_heads": 2,
            },
            "data": {"train": {"type": "csv", "path": str(source)}, "seq_len": T},
        }
    )
    config = experiment.with_labels(config, notify=lambda words: None)
    task = experiment.make_task(config, tokenizer)
    store = rows_of(task, tokenizer, tmp_path, source=experiment.make_source(config.data.train))
    features = batch_of(task, store, 2)
    assert "token_type_ids" not in features
    model = experiment.make_model(config, tokenizer.vocab_size)
    logits = model(features)["logits"].numpy()
    assert not np.allclose(logits[0, 0], logits[0, 1], atol=1e-4), "the order of both texts is seen"
    with pytest.raises(
        DataError, match="the model has no types of tokens, and the tokenizer nothing that stands"
    ):
        task.examples_of(ByteTokenizer(), seq_len=T, packing=True)


def test_weights_of_no_class_and_of_no_number_are_named(tokenizer, tmp_path):
    with pytest.raises(
        TaskError, match=r"task.class_weights names 'fair', which is no class; there are 'bad'"
    ):
        Classification(class_names=NAMES, class_weights={"fair": 2.0})
    source = Reviews(4)
    source.rows[1]["weight"] = "heavy"
    with pytest.raises(DataError, match="'weight' must be a number that is not negative, not 'heavy'"):
        rows_of(Classification(class_names=NAMES), tokenizer, tmp_path, source=source)
    with pytest.raises(DataError, match="leaves no room beside the 2 tokens around a text"):
        Classification(class_names=NAMES).examples_of(tokenizer, seq_len=2, packing=True)
