"""Texts that belong together: rows, the loss over the whole batch, and what is found by the vectors."""

import json

import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tests.tiny import randomized
from tests.training.toy import DIVISIONS, assert_same_training, run_steps, toy_step
from tfllm.commands.main import main
from tfllm.config import ConfigError, config_from_mapping
from tfllm.data import prepare_rows
from tfllm.data.errors import DataError
from tfllm.data.pipeline import evaluation_batches, training_batches
from tfllm.data.record import Record
from tfllm.data.sources import Source
from tfllm.evaluation.evaluator import Evaluator
from tfllm.evaluation.retrieval import retrieval_metrics
from tfllm.models.encoder import Encoder
from tfllm.tasks.contrastive import Contrastive
from tfllm.tokenizers import WordPieceTokenizer
from tfllm.training.gradients import loss_of_batch

T = 12
WORDS = [f"{a}{b}" for a in "bcdfgh" for b in ("at", "on", "ill", "ust")]


class Pairs(Source):
    """Records of sentences and of the same with words behind; some stand there twice."""

    def __init__(self, count=40, **columns):
        rng = np.random.default_rng(0)
        self.rows = []
        for number in range(count):
            words = list(rng.choice(WORDS, 1 + number % 4))
            made = {"anchor": " ".join(words), "positive": " ".join([*words, "so"])}
            made["positive"] += " too" * (number % 7 == 3)
            made |= {name: " ".join(rng.choice(WORDS, 3)) for name in columns}
            self.rows.append({**made, "text": made["anchor"]})
        self.rows += self.rows[:4]
        self.rows += [{**self.rows[2], "positive": "bust bust so"}]

    def records(self):
        return (Record(row) for row in self.rows)

    def describe(self):
        return "pairs"

    def fingerprint(self):
        return json.dumps(self.rows)


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer.train([" ".join([*WORDS, "so"])] * 4, vocab_size=200)


def rows_of(task, tokenizer, folder, packing=True, source=None):
    maker = task.examples_of(tokenizer, seq_len=T, packing=packing)
    return prepare_rows(
        source=source or Pairs(negative=True),
        tokenizer=tokenizer,
        seq_len=T,
        packing=packing,
        maker=maker,
        cache_dir=folder,
    )


KINDS = {
    "both": {},
    "one way": {"directions": "anchor_to_positive", "temperature": 0.2},
    "hard negatives": {"negatives": 1},
    "twins": {"twins": True},
    "duplicates": {"mask_duplicates": False, "pooling": "first"},
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def task(kind, tokenizer):
    return Contrastive(tokenizer=tokenizer, **KINDS[kind])


@pytest.fixture(scope="module")
def store(task, tokenizer, tmp_path_factory):
    return rows_of(task, tokenizer, tmp_path_factory.mktemp("rows"))


def test_rows_hold_texts_that_belong_together_next_to_each_other(task, store, tokenizer):
    rows = store.read(range(store.num_rows))
    texts = {}
    for row in range(store.num_rows):
        for segment in np.flatnonzero(rows["roles"][row]):
            ids = rows["token_ids"][row][rows["segment_ids"][row] == segment + 1].tolist()
            assert ids[0] == tokenizer.bos_id and ids[-1] == tokenizer.eos_id
            said = (
                int(rows["roles"][row, segment]),
                tokenizer.decode(ids),
                int(rows["text_keys"][row, segment]),
            )
            texts.setdefault(int(rows["example_ids"][row, segment]), []).append(said)
    assert sorted(texts) == list(range(45)) and rows["segment_ids"].max() >= 6
    keys = {}
    for number, row in enumerate(Pairs(negative=True).rows):
        expected = [row["text"]] * 2 if task.twins else [row["anchor"], row["positive"]]
        expected += [row["negative"]] * task.negatives
        assert [text for _, text, _ in texts[number]] == expected
        assert [role for role, _, _ in texts[number]] == [1, 2, 3][: len(expected)]
        for _, text, key in texts[number]:
            assert keys.setdefault(text, key) == key
    assert len(set(keys.values())) == len(keys)


def encoder(tokenizer, dropout=0.25):
    sizes = {"num_layers": 1, "hidden_dim": 8, "num_heads": 2, "max_seq_len": T}
    return randomized(Encoder(vocab_size=tokenizer.vocab_size, dropout=dropout, **sizes))


def batches(store, task, stop=3):
    return training_batches(
        store, global_batch_size=4, seed=1, num_steps=stop, transform=task.features, aligned=task.aligned
    )


def steps(task, store, tokenizer, **arguments):
    sgd = {"optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.1, "clip_norm": 0.1}
    step = toy_step(task=task, make=lambda **made: encoder(tokenizer, made["dropout"]), **sgd, **arguments)
    return run_steps(step, 3, batches(store, task))


@pytest.fixture(scope="module")
def whole(task, store, tokenizer):
    return steps(task, store, tokenizer)


def by_hand(vectors, roles, keys, task):
    """As sentence-transformers' MultipleNegativesRankingLoss, one anchor after another, without equal texts and what
    belongs to them.
    """
    partner = {**dict(zip(np.flatnonzero(roles == 1), np.flatnonzero(roles == 2), strict=True))}
    partner |= {positive: anchor for anchor, positive in partner.items()}
    anchors, positives = np.flatnonzero(roles == 1), np.flatnonzero(roles == 2)
    candidates = np.flatnonzero(roles > 1)

    def loss(asks, answers, among):
        total = 0.0
        for ask, answer in zip(asks, answers, strict=True):
            scores = {answer: vectors[ask] @ vectors[answer] / task.temperature}
            for other in among:
                if task.mask_duplicates and keys[other] in (keys[ask], keys[answer]):
                    continue
                if task.mask_duplicates and other in partner and keys[partner[other]] == keys[ask]:
                    continue
                scores[other] = vectors[ask] @ vectors[other] / task.temperature
            total += np.log(sum(np.exp(np.array(list(scores.values())) - scores[answer])))
        return total

    forward = loss(anchors, positives, candidates)
    if task.directions == "anchor_to_positive":
        return forward, len(anchors)
    return (forward + loss(positives, anchors, anchors)) / 2, len(anchors)


def test_the_loss_is_that_of_telling_each_text_among_all(task, store, tokenizer):
    features = next(iter(batches(store, task)))
    model = encoder(tokenizer)
    vectors = task.vectors(model, features, model(features, training=True))["vectors"].numpy()
    flat = (vectors.reshape(-1, 8), *(features[name].numpy().ravel() for name in ("roles", "text_keys")))
    loss, weight = by_hand(*flat, task)
    found, weighed = loss_of_batch(model, task, features)
    assert float(found) == pytest.approx(loss, rel=1e-5) and float(weighed) == weight > 4
    real = flat[1] > 0
    np.testing.assert_allclose(np.linalg.norm(flat[0][real], axis=1), 1.0, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["both", "hard negatives"], indirect=True)
def test_replicas_and_microbatches_equal_one_device(task, store, tokenizer, whole):
    assert_same_training(whole, steps(task, store, tokenizer, **DIVISIONS["2 x 2"]), rtol=1e-5)


def test_twins_differ_in_training_and_not_in_evaluation(tokenizer, tmp_path):
    task = Contrastive(tokenizer=tokenizer, twins=True)
    for packing in (True, False):
        store = rows_of(task, tokenizer, tmp_path / str(packing), packing)
        model, features = encoder(tokenizer), next(iter(batches(store, task)))
        both = [
            task.vectors(model, features, model(features, training=training))["vectors"].numpy()
            for training in (True, False)
        ]
        anchors = features["roles"].numpy() == 1
        for vectors, differ in zip(both, (True, False), strict=True):
            gaps = np.abs(vectors[:, :-1] - vectors[:, 1:]).max(axis=-1)[anchors[:, :-1]]
            assert gaps.min() > 1e-3 if differ else gaps.max() < 1e-6


def test_packed_texts_have_the_vectors_they_have_alone(task, store, tokenizer):
    model = encoder(tokenizer, 0.0)
    features = next(iter(batches(store, task)))
    together = task.vectors(model, features, model(features))["vectors"].numpy()
    ids, segments = features["token_ids"].numpy(), features["segment_ids"].numpy()
    for row, segment in zip(*np.nonzero(features["roles"].numpy()), strict=True):
        own = tf.constant(ids[row][segments[row] == segment + 1][None])
        states = model({"token_ids": own})["hidden_states"].numpy()[0]
        alone = states[0] if task.pooling == "first" else states.mean(axis=0)
        np.testing.assert_allclose(together[row, segment], alone / np.linalg.norm(alone), atol=1e-5)


@pytest.mark.parametrize("packing", [True, False])
def test_metrics_do_not_depend_on_the_batch_size(tokenizer, tmp_path, packing):
    task = Contrastive(tokenizer=tokenizer, negatives=1)
    store, model = rows_of(task, tokenizer, tmp_path, packing), encoder(tokenizer, 0.0)

    def metrics(size):
        rows = evaluation_batches(store, batch_size=size, transform=task.features, aligned=task.aligned)
        return Evaluator(model=model, task=task, batches=lambda: rows, jit_compile=False).evaluate()

    whole = metrics(64)
    assert metrics(3) == pytest.approx(whole, rel=1e-5) and whole["pairs"] == 45
    assert 0 < whole["recall_at_1"] < whole["recall_at_10"] <= 1


def test_ranks_are_those_counted_one_by_one():
    rng = np.random.default_rng(0)
    anchors, positives, negatives = (rng.normal(size=(n, 4)).astype(np.float32) for n in (30, 30, 20))
    positives[7] = positives[3]  # the same text
    keys = np.arange(30), np.arange(100, 130), np.arange(200, 220)
    keys[1][7] = keys[1][3]
    keys[0][12] = keys[0][20]  # an anchor with two positives
    found = retrieval_metrics(anchors, positives, negatives, keys=keys, temperature=0.5)
    ranks, losses = [], []
    for i in range(30):
        apart = [j for j in range(30) if keys[1][j] != keys[1][i] and keys[0][j] != keys[0][i]]
        others = [positives[j] for j in apart] + list(negatives)
        scores, own = [float(anchors[i] @ other) for other in others], float(anchors[i] @ positives[i])
        ranks.append(1 + sum(score >= own for score in scores))
        losses.append(np.log(np.exp(np.array([own, *scores]) / 0.5).sum()) - own / 0.5)
    assert found["recall_at_1"] == np.mean(np.array(ranks) == 1)
    assert found["recall_at_10"] == np.mean(np.array(ranks) <= 10)
    assert found["mrr"] == pytest.approx(np.mean(1 / np.array(ranks)))
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    same = retrieval_metrics(
        anchors * 0 + 1, anchors * 0 + 1, negatives[:0], keys=(*keys[:2], keys[2][:0]), temperature=1.0
    )
    assert same["recall_at_1"] == 0, "vectors that are all alike find nothing"


def test_blank_texts_are_left_out_and_wrong_records_named(tokenizer, tmp_path):
    task = Contrastive(tokenizer=tokenizer)
    source = Pairs(4)
    source.rows[1]["positive"] = " "
    assert rows_of(task, tokenizer, tmp_path, source=source).num_documents == 7, (
        "two of nine records are that row"
    )
    for row, words in (
        ({"text": "bat"}, "no column 'anchor'; the columns are 'text'"),
        ({"anchor": "bat", "positive": "cat", "negative": ["a", "b"]}, r"'negative' must be 1 text\(s\)"),
    ):
        source = Pairs(4)
        source.rows = [row]
        with pytest.raises(DataError, match=words):
            rows_of(Contrastive(tokenizer=tokenizer, negatives=1), tokenizer, tmp_path, source=source)
    with pytest.raises(DataError, match="leaves no room beside the 2 tokens around a text"):
        task.examples_of(tokenizer, seq_len=2, packing=True)


@pytest.mark.slow
def test_from_yaml_to_vectors_that_find_more(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    lines = [" ".join(rng.choice(WORDS, 4)) for _ in range(150)]
    swapped = [" ".join(f"x{word}" for word in reversed(line.split())) for line in lines]
    (tmp_path / "pairs.csv").write_text(
        "one,other\n" + "\n".join(map(",".join, zip(lines, swapped, strict=True)))
    )
    (tmp_path / "pairs.yaml").write_text(
        """
name: pairs
task: {type: contrastive, pooling: mean}
tokenizer: {type: wordpiece, vocab_size: 260}
model: {type: encoder, num_layers: 1, hidden_dim: 16, num_heads: 2, norm_placement: pre}
data:
  train: {type: csv, path: pairs.csv, columns: {anchor: one, positive: other}}
  validation_fraction: 0.3
  seq_len: 16
  num_workers: 1
optimizer: {learning_rate: 0.02, schedule: constant}
training: {steps: 40, global_batch_size: 8, microbatch_size: 4, jit_compile: false, log_every: 20, best_metric: mrr}
"""
    )
    assert main(["train", "pairs.yaml"]) == 0, capfd.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "runs/pairs/metrics.jsonl").read_text().splitlines()]
    said = [line for line in lines if line["split"] == "validation"]
    assert said[-1]["mrr"] > 2 * said[0]["mrr"] and said[-1]["loss"] < said[0]["loss"]
    lm = tfllm.load("runs/pairs", jit_compile=False)
    vectors = lm.embed([*(line for line in ("bat con", "xcon xbat"))])
    assert vectors.shape == (2, 16) and lm.sentence_modules.poolings == ("mean",)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["task.twins=true"], r"model.dropout=0.0 makes no difference between twins.*write 0.1"),
        (
            ["task.twins=true", "model.dropout=0.1", "task.negatives=1"],
            "task.negatives=1 means nothing with twins",
        ),
        (["training.global_batch_size=1", "data.packing=false"], "global_batch_size=1 has no other examples"),
        (
            ["model=decoder"],
            "model.type=decoder is not trained by task.type=contrastive, which needs an encoder",
        ),
        (["task.temperature=0"], "task.temperature"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_is_told_at_once(changes, words):
    mapping = {
        "name": "m",
        "task": "contrastive",
        "model": {"type": "encoder", "num_layers": 1},
        "data": {"train": {"type": "csv", "path": "x.csv"}, "seq_len": 48},
    }
    config_from_mapping(mapping)
    with pytest.raises(ConfigError, match=words):
        config_from_mapping(mapping, changes)
