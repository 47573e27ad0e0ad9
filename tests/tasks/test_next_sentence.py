"""Rows of two parts: what they hold, which follow, and the two means of their loss."""

import numpy as np
import pytest

import tfllm
from tests.data.fakes import ListSource
from tests.tiny import randomized
from tests.training.toy import DIVISIONS, assert_same_training, run_steps, toy_step
from tfllm.commands.main import main
from tfllm.config import ConfigError, config_from_mapping
from tfllm.data import prepare_rows
from tfllm.data.errors import DataError
from tfllm.data.pipeline import evaluation_batches, training_batches
from tfllm.data.sentences import sentences_of
from tfllm.evaluation.evaluator import Evaluator
from tfllm.models.encoder import Encoder
from tfllm.tasks.masked_lm import MaskedLM
from tfllm.tokenizers import WordPieceTokenizer
from tfllm.training.train_step import metrics_by_name

T = 24
# Every word says its document and its place.
DOCUMENTS = [
    " ".join(f"d{d}x{i}{'.' if i % 5 == 4 or (d * i) % 7 == 6 else ''}" for i in range(8 + 9 * (d % 7)))
    for d in range(30)
]


class Words:
    """Each word is a token; a stop belongs to its word."""

    names = [word.strip(".") for text in DOCUMENTS for word in text.split()]
    prefix_ids, separator_ids, suffix_ids = (1,), (2,), (2,)
    pad_id, mask_id, eos_id, bos_id = 0, 3, 2, 1
    vocab_size = 4 + len(names)
    special_ids = frozenset(range(4))
    fingerprint = "words"
    token_bytes = (b"", b"", b"", b"", *(f" {name}".encode() for name in names))
    place = {name: 4 + i for i, name in enumerate(names)}

    def encode_batch(self, texts):
        return [np.array([self.place[word.strip(".")] for word in text.split()], np.int32) for text in texts]

    def of(self, ids):
        return [tuple(map(int, self.names[i - 4].strip(".")[1:].split("x"))) for i in ids]


def rows_of(folder, documents=DOCUMENTS, tokenizer=None, seq_len=T):
    tokenizer = tokenizer or Words()
    maker = MaskedLM(tokenizer=tokenizer, next_sentence=True).examples_of(
        tokenizer, seq_len=seq_len, packing=True
    )
    return prepare_rows(
        source=ListSource(documents), tokenizer=tokenizer, seq_len=seq_len, maker=maker, cache_dir=folder
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return rows_of(tmp_path_factory.mktemp("rows"))


def parts_of(rows):
    for ids, types, words, label in zip(
        rows["token_ids"],
        rows["token_type_ids"],
        rows["words"],
        rows["next_sentence_labels"][:, 0],
        strict=True,
    ):
        size = int((ids != 0).sum())
        first, second = np.flatnonzero(ids == 2)
        assert ids[0] == 1 and second == size - 1
        np.testing.assert_array_equal(types, (np.arange(T) > first) & (np.arange(T) < size))
        np.testing.assert_array_equal(words > 0, ids > 3)
        np.testing.assert_array_equal(words[words > 0], 1 + np.arange(size - 3), "each word its own number")
        yield Words().of(ids[1:first]), Words().of(ids[first + 1 : second]), label


def test_the_second_part_follows_or_is_of_another_document(store):
    labels, shown, adjacent = [], set(), []
    for first, second, label in parts_of(store.read(range(store.num_rows))):
        assert first and second
        for part in (first, second):
            assert {d for d, _ in part} == {part[0][0]}
            assert [i for _, i in part] == list(range(part[0][1], part[0][1] + len(part)))
        if label == 0:
            assert first[0][0] == second[0][0] and second[0][1] > first[-1][1]
            adjacent.append(second[0][1] == first[-1][1] + 1)  # unless something was cut off between
        else:
            assert first[0][0] != second[0][0]
        labels.append(label)
        shown |= {*first, *second}
    assert len(labels) > 60 and abs(np.mean(labels) - 0.5) < 3 * 0.5 / np.sqrt(len(labels))
    assert np.mean(adjacent) > 0.6
    assert len(shown) > 0.9 * len(Words.names), "little is cut off"


def test_two_documents_stand_beside_each_other_and_one_is_refused(tmp_path):
    store = rows_of(tmp_path, DOCUMENTS[5:7])
    labels = [label for *_, label in parts_of(store.read(range(store.num_rows)))]
    assert set(labels) == {0, 1}
    with pytest.raises(DataError, match=r"1 documents with .* but at least 2 documents are needed.*split_on"):
        rows_of(tmp_path, DOCUMENTS[5:6])


def test_documents_of_one_sentence_are_both_followed_and_not(tmp_path):
    store = rows_of(tmp_path, [text.replace(".", "") for text in DOCUMENTS if len(text.split()) > 3])
    labels = [label for *_, label in parts_of(store.read(range(store.num_rows)))]
    assert 0.2 < np.mean(labels) < 0.8


@pytest.mark.parametrize("seq_len", [4, 5])
def test_a_row_without_room_is_refused(tmp_path, seq_len):
    if seq_len == 4:
        with pytest.raises(DataError, match="leaves no room for two parts beside the 3 tokens around them"):
            rows_of(tmp_path, seq_len=4)
    else:
        assert rows_of(tmp_path, seq_len=5).num_rows > 100


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two!  Three? Four", ["One.", " Two!", "  Three?", " Four"]),
        ('He said "no." Then left.\n\nNew', ['He said "no."', " Then left.\n\n", "New"]),
        ("v1.2 is e.g. new", ["v1.2 is e.g.", " new"]),
        ("これは。それは！終", ["これは。", "それは！", "終"]),
        ("\n \n x. ", ["\n \n x. "]),
        ("", []),
        (" ", [" "]),
    ],
)
def test_a_text_is_cut_where_sentences_end(text, sentences):
    assert sentences_of(text) == sentences and "".join(sentences) == text


def encoder(dropout=0.25):
    sizes = {"num_layers": 1, "hidden_dim": 8, "num_heads": 2, "max_seq_len": T}
    heads = {"head": "masked_lm", "next_sentence_head": True, "pooler": "tanh"}
    return randomized(Encoder(vocab_size=Words.vocab_size, dropout=dropout, **sizes, **heads))


@pytest.fixture(scope="module")
def task():
    return MaskedLM(tokenizer=Words(), next_sentence=True)


def steps(task, store, **arguments):
    sgd = {"optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.1, "clip_norm": 0.1}
    step = toy_step(task=task, make=lambda **made: encoder(made["dropout"]), **sgd, **arguments)
    return run_steps(step, 3, batches(store, task))


def batches(store, task):
    return training_batches(
        store, global_batch_size=8, seed=1, num_steps=3, transform=task.features, aligned=task.aligned
    )


@pytest.fixture(scope="module")
def whole(task, store):
    return steps(task, store)


def log_softmax(logits):
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_the_loss_is_the_sum_of_both_means(task, store, whole):
    """As transformers' BertForPreTraining has it: one mean over hidden tokens, one over pairs."""
    features = next(iter(batches(store, task)))
    outputs = encoder()(features, training=True)
    logs = log_softmax(outputs["logits"].numpy())
    rows, places = np.nonzero(features["masked_weights"].numpy())
    at = features["masked_positions"].numpy()[rows, places]
    masked = -logs[rows, at, features["masked_targets"].numpy()[rows, places]]
    labels = features["next_sentence_labels"].numpy()[:, 0]
    pairs = -log_softmax(outputs["next_sentence_logits"].numpy())[np.arange(8), labels]
    first = {name: column[0] for name, column in metrics_by_name(whole[0], tuple(task.coefficients)).items()}
    assert first["loss_sum"] / first["weight_sum"] == pytest.approx(masked.mean() + pairs.mean(), rel=1e-5)
    assert first["weight_sum/next_sentence"] == 8 and first["weight_sum/masked_lm"] == len(masked)


@pytest.mark.slow
def test_replicas_and_microbatches_equal_one_device(task, store, whole):
    assert_same_training(whole, steps(task, store, **DIVISIONS["2 x 2"]))


def test_metrics_count_each_pair_once(task, store):
    model = encoder(0.0)

    def metrics(size):
        rows = evaluation_batches(store, batch_size=size, transform=task.features, aligned=task.aligned)
        return Evaluator(model=model, task=task, batches=lambda: rows, jit_compile=False).evaluate()

    whole = metrics(64)
    assert metrics(7) == pytest.approx(whole, rel=1e-5)
    assert whole["next_sentence_pairs"] == store.num_rows and 0 < whole["next_sentence_accuracy"] < 1
    assert whole["loss"] > np.log(whole["perplexity"])


@pytest.mark.slow
def test_from_yaml_to_an_encoder_with_both_heads(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("\n\n".join(DOCUMENTS))
    (tmp_path / "pairs.yaml").write_text(
        """
name: pairs
task: {type: masked_lm, next_sentence: true}
tokenizer: {type: wordpiece, vocab_size: 260}
model: {type: encoder, num_layers: 1, hidden_dim: 8, num_heads: 2}
data: {train: {type: text_files, path: text.txt, split_on: "\\n\\n"}, validation_fraction: 0.3, seq_len: 48, num_workers: 1}
training: {steps: 4, global_batch_size: 4, jit_compile: false, best_metric: next_sentence_accuracy}
optimizer: {schedule: constant}
"""
    )
    assert main(["train", "pairs.yaml"]) == 0, capfd.readouterr().err

    lm = tfllm.load("runs/pairs", jit_compile=False)
    assert lm.model.head == "masked_lm" and lm.model.next_sentence is not None
    assert isinstance(lm.tokenizer, WordPieceTokenizer)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            ["model.next_sentence_head=false"],
            "model.next_sentence_head=false is not trained by .* which needs true",
        ),
        (["model.num_token_types=0"], "model.num_token_types=0 tells no two parts of a row apart"),
        (["model.pooler=none"], "model.pooler=none is read by model.next_sentence_head"),
    ],
)
def test_what_does_not_fit_is_told_at_once(changes, words):
    mapping = {
        "name": "m",
        "task": {"type": "masked_lm", "next_sentence": True},
        "model": {"type": "encoder", "num_layers": 1},
        "data": {"train": "python_docs", "seq_len": 48},
    }
    assert config_from_mapping(mapping).model.pooler == "tanh"
    with pytest.raises(ConfigError, match=words):
        config_from_mapping(mapping, changes)
