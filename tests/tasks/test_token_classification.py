"""Words and their tags: found in the records, learned in windows, told, and counted by whole spans."""

import json
import random

import numpy as np
import pytest

import tfllm
from tests.tasks.rows import evaluated, rows_of
from tests.tasks.test_contrastive import WORDS
from tests.tiny import randomized
from tests.tokenizers.hard_texts import HARD_CASES, random_texts
from tests.training.toy import DIVISIONS, assert_same_training, trained_on_rows
from tfllm.commands.main import main
from tfllm.config import ConfigError, config_from_mapping
from tfllm.data import RowMixture
from tfllm.data.errors import DataError
from tfllm.data.pipeline import evaluation_batches
from tfllm.data.record import Record, with_text
from tfllm.data.sources import Source
from tfllm.evaluation.predictions import Prediction
from tfllm.generation.errors import GenerationError
from tfllm.models.encoder import Encoder
from tfllm.tasks.examples.tagged_record import tagged_record
from tfllm.tasks.examples.tagged_text import TaggedText, TextWindows
from tfllm.tasks.examples.words import joined, word_places
from tfllm.tasks.tags import iob2, spans_of
from tfllm.tasks.token_classification import TokenClassification
from tfllm.tokenizers import ByteBPETokenizer, SentencePieceTokenizer, WordPieceTokenizer
from tfllm.tokenizers.byte import ByteTokenizer
from tfllm.tokenizers.repair import repair_text

T = 14
NAMES = ("O", "B-ODD", "I-ODD", "B-EVEN", "I-EVEN")
HARD = [repair_text(text) for text in [*HARD_CASES, *random_texts(120, seed=5)]]
LONG = "Łódź 🤗👨‍👩‍👧 don't 北京大学 e\u0301te\u0301 a\u00adb ไทย <s>[MASK]</s> naïve-ish ﬁne " * 9


@pytest.fixture(scope="module")
def tokenizers():
    texts = [" ".join(WORDS), LONG, *HARD]
    return {
        "wordpiece": WordPieceTokenizer.train(texts, vocab_size=700),
        "byte_bpe": ByteBPETokenizer.train(texts, vocab_size=500),
        "sentencepiece": SentencePieceTokenizer.train(texts, vocab_size=900),
        "byte": ByteTokenizer(),
    }


@pytest.mark.parametrize("kind", ["wordpiece", "byte_bpe", "sentencepiece", "byte"])
def test_tokens_of_a_text_and_their_places_are_those_of_encode(tokenizers, kind):
    tokenizer = tokenizers[kind]
    for text in [*HARD, LONG]:
        ids, places = tokenizer.encode_with_offsets(text, special=False)
        assert ids == tokenizer.encode(text)
        assert len(ids) == len(places) and all(0 <= a <= b <= len(text) for a, b in places)


@pytest.mark.parametrize("kind", ["wordpiece", "byte_bpe", "sentencepiece", "byte"])
def test_tags_come_back_from_the_first_tokens_of_words_whatever_the_text(tokenizers, kind):
    """Every word that has a token is told of once, by its first token, whether the text is cut or not."""
    tokenizer, rng = tokenizers[kind], random.Random(0)
    for seq_len in (12, 400):
        windows = TextWindows(tokenizer, seq_len)
        for text in [*HARD, LONG]:
            for text_, places in ((text, word_places(text)), joined(text.split())):
                cut = windows.of(text_, places)
                assert all(len(window.token_ids) <= seq_len for window in cut)
                ids = tokenizer.encode(text_)
                if len(ids) <= windows.room:
                    [only] = cut
                    assert only.token_ids.tolist() == [
                        *tokenizer.prefix_ids,
                        *ids,
                        *tokenizer.suffix_ids,
                    ]
                told = [int(word) for window in cut for word in window.words if word]
                assert told == sorted(set(told))
                _, offsets = tokenizer.encode_with_offsets(text_, special=False)
                ends = [b - 1 for a, b in offsets if b > a]
                has = [any(a <= end < b for end in ends) for a, b in places]
                assert told == [index + 1 for index, there in enumerate(has) if there]
                # Spans of words that have tokens come back as they were.
                spans, place = [], 0
                while place < len(told):
                    stop = min(len(told), place + rng.randint(1, 3))
                    if rng.random() < 0.5:
                        spans.append((place, stop, "X"))
                    place = stop
                tags = dict(zip(told, iob2(spans, len(told)), strict=True))
                assert spans_of([tags[word] for window in cut for word in window.words if word]) == spans


def test_a_window_speaks_of_words_that_stand_in_it_with_something_around_them():
    windows = TextWindows(ByteTokenizer(), 41).of(*joined(["a"] * 100))  # 199 tokens, 40 of them a window
    sizes = [np.count_nonzero(window.words) for window in windows]
    assert sum(sizes) == 100 and len(windows) == 7
    for window in windows[1:-1]:
        told = np.nonzero(window.words)[0]
        assert told[0] >= 5 and told[-1] <= 40 - 5
    assert [int(word) for window in windows for word in window.words if word] == list(range(1, 101))


def test_a_word_too_long_for_the_vocabulary_has_its_tag(tokenizers):
    """WordPiece takes a word of more than 100 letters for an unknown one, which is a token all the same."""
    text, places = joined(["see", "x" * 300, "https://" + "a/" * 200, "now"])
    for tokenizer in tokenizers.values():
        told = [
            int(word)
            for window in TextWindows(tokenizer, 1000).of(text, places)
            for word in window.words
            if word
        ]
        assert told == [1, 2, 3, 4]


def test_words_of_texts():
    def words(text):
        return [text[a:b] for a, b in word_places(text)]

    assert words("Ada's  co-op, 3.5% a_b") == [
        *["Ada", "'", "s", "co", "-", "op", ",", "3", ".", "5", "%", "a_b"]
    ]
    assert words("北京は e\u0301te\u0301 हिन्दी") == ["北", "京", "は", "e\u0301te\u0301", "हिन्दी"]
    assert words("☃\ufe0f 한국어 \u200b") == ["☃\ufe0f", "한국어"]
    assert words("") == words(" \n\t\u3000") == []


def test_what_records_say():
    found = tagged_record(Record({"tokens": ["Ada", "\ud83e", "B"], "tags": ["B-PER", 1, "O"]}), ["O", "I-X"])
    assert (found.text, found.places) == ("Ada \ufffd B", [(0, 3), (4, 5), (6, 7)])
    assert found.tags == ["B-PER", "I-X", "O"]
    text = "Ada Lovelace met B."
    spans = [{"start": 17, "end": 18, "label": "PER", "id": 3}, [0, 9, "PER"]]
    found = tagged_record(Record({"text": text, "spans": spans}))
    assert found.tags == ["B-PER", "I-PER", "O", "B-PER", "O"]
    assert with_text({"tokens": ["a", "b"]})["text"] == "a b"
    assert (
        "text" not in with_text({"tokens": ["a", 1]})
        and with_text({"text": "x", "tokens": []})["text"] == "x"
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"tokens": ["a", "b"], "tags": ["O"]},
            "f:3: has 2 tokens and 1 tags, from 'a b' on; give each token one",
        ),
        ({"tokens": "a b", "tags": ["O"]}, "'tokens' must be a list of words, not 'a b'"),
        ({"tokens": ["a"], "tags": "O"}, "'tags' must be a list, a tag for each token, not 'O'"),
        ({"tokens": ["a"], "tags": [""]}, "'tags' must hold the name of a tag for each token, not ''"),
        (
            {"tokens": ["a"], "tags": [7]},
            "the tag 7 is a number, whose name nobody knows; write task.tag_names",
        ),
        (
            {"text": "a", "label": "x"},
            "there must be columns tokens and tags, or text and spans; the columns are",
        ),
        ({"text": "a b", "spans": [[0, 2, "X"], [1, 3, "Y"]]}, "spans [0, 2, 'X'] and [1, 3, 'Y'] overlap"),
        ({"text": "ab c", "spans": [[0, 1, "X"], [1, 2, "Y"]]}, "two spans share the word 'ab'"),
        (
            {"text": "a b", "spans": [[0, 9, "X"]]},
            "must begin and end in order within the text's 3 characters",
        ),
        ({"text": "a b", "spans": [[1, 2, "X"]]}, "the span [1, 2, 'X'] holds no word but ' '"),
        ({"text": "a b", "spans": [[0, "X"]]}, "a span must be {start, end, label}, two numbers and a name"),
        ({"text": "a b", "spans": {"start": 0}}, "'spans' must be a list of {start, end, label}"),
    ],
)
def test_records_that_are_none_are_told(fields, words):
    with pytest.raises(DataError) as error:
        tagged_record(Record(fields, "f:3", "data.train.columns"))
    assert words in str(error.value) and str(error.value).startswith("f:3: ")


class Sentences(Source):
    """Runs of words of one kind, whose tags say which; some longer than a row."""

    def __init__(self, count=40):
        rng = np.random.default_rng(0)
        self.rows = []
        for number in range(count):
            spans, words = [], []
            for _ in range(1 + number % 8):
                kind = int(rng.integers(3))
                run = [str(word) for word in rng.choice(WORDS[kind::3], rng.integers(1, 4))]
                if kind:
                    spans.append((len(words), len(words) + len(run), ("ODD", "EVEN")[kind - 1]))
                words += run
            row = {"tokens": words, "tags": iob2(spans, len(words)), "weight": 1.0 + number % 3}
            self.rows.append(with_text(row))

    def records(self):
        return (Record(row) for row in self.rows)

    def describe(self):
        return "sentences"

    def fingerprint(self):
        return json.dumps(self.rows)


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer.train([" ".join(WORDS)] * 4, vocab_size=200)


@pytest.fixture(scope="module")
def task():
    return TokenClassification(class_names=NAMES)


@pytest.fixture(scope="module")
def stores(task, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return {
        packing: rows_of(task, tokenizer, folder, Sentences(), seq_len=T, packing=packing)
        for packing in (True, False)
    }


def model_of(tokenizer, **settings):
    settings = {"num_layers": 1, "hidden_dim": 16, "num_heads": 2, "num_classes": len(NAMES), **settings}
    sizes = {"vocab_size": tokenizer.vocab_size, "max_seq_len": T, "head": "token_classification"}
    return randomized(Encoder(**sizes, **settings), seed=3)


def test_packed_or_not_every_word_is_told_once_and_in_order(task, stores, tokenizer):
    model, rows = model_of(tokenizer), Sentences().rows
    one, other = (evaluated(task, model, stores[packing], size) for packing, size in ((True, 3), (False, 64)))
    assert stores[True].num_rows < stores[False].num_rows > len(rows), "some are cut"
    assert one.metrics == pytest.approx(other.metrics, rel=1e-5)
    for row, ours, theirs in zip(rows, one.predictions, other.predictions, strict=True):
        assert [NAMES[place] for place in ours.values["labels"]] == row["tags"]
        np.testing.assert_array_equal(ours.values["tags"], theirs.values["tags"])
    assert one.metrics["words"] == sum(len(row["tokens"]) for row in rows)


def test_texts_of_several_sources_are_told_apart(task, stores, tokenizer):
    both = RowMixture((stores[True], stores[True]), (1.0, 3.0))
    alone, found = (evaluated(task, model_of(tokenizer), rows, 3) for rows in (stores[True], both))
    assert [each.number for each in found.predictions] == list(range(2 * 40))
    for number, each in enumerate(found.predictions):
        np.testing.assert_array_equal(each.values["tags"], alone.predictions[number // 2].values["tags"])


def test_the_loss_is_the_cross_entropy_of_words_weighed_by_record(task, stores, tokenizer):
    model = model_of(tokenizer)
    losses = weights = 0.0
    for features in evaluation_batches(stores[True], batch_size=64, transform=task.features):
        outputs = model(features)
        assert float(task.weights(features)["loss"]) > 0
        logits = outputs["logits"].numpy().astype(np.float64)
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        for row, token in np.argwhere(features["words"].numpy() > 0):
            segment = features["segment_ids"].numpy()[row, token] - 1
            weight = 1.0 + features["example_ids"].numpy()[row, segment] % 3
            losses -= weight * logs[row, token, features["tags"].numpy()[row, token]]
            weights += weight
    found = evaluated(task, model, stores[True])
    assert found.metrics["loss"] == pytest.approx(losses / weights, rel=1e-5)


@pytest.fixture(scope="module")
def whole(task, stores, tokenizer):
    return trained_on_rows(task, stores[True], lambda dropout: model_of(tokenizer, dropout=dropout))


@pytest.mark.parametrize(
    "division",
    ["4 microbatches", pytest.param("2 x 2", marks=pytest.mark.slow)],
)
def test_replicas_and_microbatches_equal_one_device(task, stores, tokenizer, whole, division):
    made = (task, stores[True], lambda dropout: model_of(tokenizer, dropout=dropout))
    assert_same_training(whole, trained_on_rows(*made, **DIVISIONS[division]), atol=2e-6)


def predictions_of(task, pairs):
    places = {name: place for place, name in enumerate(task.class_names)}
    made = []
    for number, (said, meant) in enumerate(pairs):
        values = {"words": np.arange(1, len(said) + 1)}
        values |= {"tags": np.array([places[tag] for tag in said])}
        values |= {"labels": np.array([places[tag] for tag in meant])}
        made.append(Prediction(number, values))
    return task.joined(made)


def test_metrics_are_those_of_their_definitions(task):
    said = ["B-ODD I-ODD O O", "I-EVEN O B-ODD", "O O", "B-ODD I-EVEN"]
    meant = ["B-ODD I-ODD O O", "B-EVEN O B-EVEN", "B-ODD I-ODD", "B-ODD I-ODD"]
    pairs = [(one.split(), other.split()) for one, other in zip(said, meant, strict=True)]
    found = task.evaluation_metrics({"loss": 2.0, "weight": 4.0}, predictions_of(task, pairs))
    # Said: ODD 0-2 | EVEN 0-1, ODD 2-3 | none | ODD 0-1, EVEN 1-2. Right: the first of both of the first two texts.
    assert found["span_precision"] == pytest.approx(2 / 5) and found["span_recall"] == pytest.approx(2 / 5)
    assert found["span_f1"] == pytest.approx(2 / 5)
    assert found["span_f1/ODD"] == pytest.approx(2 * 1 / (3 + 3)) and found["span_f1/EVEN"] == pytest.approx(
        2 / 4
    )
    assert found["accuracy"] == pytest.approx(6 / 11) and found["words"] == 11 and found["loss"] == 0.5
    nothing = task.evaluation_metrics({"loss": 0.0, "weight": 0.0}, [])
    assert nothing["span_f1"] == 0.0 and np.isnan(nothing["loss"]) and np.isnan(nothing["accuracy"])
    plain = TokenClassification(class_names=["ADJ", "NOUN", "VERB"])
    pairs = [(["NOUN", "VERB", "NOUN"], ["NOUN", "NOUN", "NOUN"])]
    found = plain.evaluation_metrics({"loss": 1.0, "weight": 1.0}, predictions_of(plain, pairs))
    assert found["accuracy"] == pytest.approx(2 / 3) and found["f1_macro"] == pytest.approx((4 / 5 + 0) / 2)
    assert plain.metric_modes == {"f1_macro": "max", "accuracy": "max", "loss": "min"}


def test_windows_of_a_text_are_put_together_by_words(task):
    parts = [([3, 0, 0], [1, 2, 0]), ([0, 1, 2], [0, 2, 1])]
    windows = [
        Prediction(4, {"words": np.array(words), "tags": np.array(tags), "labels": np.array(tags)})
        for words, tags in parts
    ]
    [whole] = task.joined(windows)
    assert whole.values["tags"].tolist() == [2, 1, 1] and whole.number == 4
    assert whole.values["spans"].tolist() == [[3, 3, 3], [0, 0, 0]]


YAML = """
name: ner
task: token_classification
tokenizer: {type: wordpiece, vocab_size: 260}
model: {type: encoder, num_layers: 1, hidden_dim: 16, num_heads: 2, norm_placement: pre}
data:
  train: {type: conll, path: train.conll}
  validation: {type: jsonl, path: held.jsonl}
  seq_len: 24
  num_workers: 1
optimizer: {learning_rate: 0.02, schedule: constant}
training: {steps: 60, global_batch_size: 8, jit_compile: false, log_every: 20, evaluate_every: 30, best_metric: span_f1}
"""


def write_text(folder):
    rng = np.random.default_rng(2)
    sentences = []
    for number in range(160):
        words, tags = [], []
        for _ in range(1 + number % 5):
            kind = rng.integers(3)
            more = [str(rng.choice(WORDS)), *(["fine", "day"] if kind == 1 else ["old"] if kind == 2 else [])]
            words += more
            tags += ["O", *(["B-T", "I-T"] if kind == 1 else ["B-Q"] if kind == 2 else [])]
        sentences.append((words, tags))
    lines = ["\n".join(f"{w} {t}" for w, t in zip(*each, strict=True)) for each in sentences[:120]]
    (folder / "train.conll").write_text("-DOCSTART- O\n\n" + "\n\n".join(lines))
    held = [json.dumps({"tokens": words, "tags": tags}) for words, tags in sentences[120:]]
    (folder / "held.jsonl").write_text("\n".join(held))
    (folder / "ner.yaml").write_text(YAML)
    return sentences


def test_from_a_corpus_to_names_in_texts(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    sentences = write_text(tmp_path)
    assert main(["train", "ner.yaml"]) == 0
    assert "spans in 732 words: Q 122, T 125" in " ".join(capfd.readouterr().err.split())
    lines = [json.loads(line) for line in (tmp_path / "runs/ner/metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["split"] == "validation"][-1]
    assert last["span_f1"] > 0.9 and last["span_f1/T"] > 0.9
    lm = tfllm.load("runs/ner", jit_compile=False)
    assert lm.class_names == ("O", "B-Q", "I-Q", "B-T", "I-T") and lm.tells == "tags"
    text = "bat fine day \n con OLD bat"
    first, second = lm.entities(text)
    assert (first["label"], first["text"], first["start"], first["end"]) == ("T", "fine day", 4, 12)
    assert (second["label"], second["text"]) == ("Q", "OLD") and 0.5 < second["score"] <= 1.0
    assert lm.tag(["bat", "fine", "day"]) == ["O", "B-T", "I-T"]
    long = "bat fine day con old " * 30
    assert [each["label"] for each in lm.entities(long)] == ["T", "Q"] * 30, "read in windows"
    assert lm.entities(["", " ", text])[:2] == [[], []] and lm.entities([]) == [] and lm.tag([]) == []
    with pytest.raises(GenerationError, match="this model classifies no texts"):
        lm.classify(text)
    with pytest.raises(GenerationError, match=r"words are given to lm\.tag"):
        lm.entities([["a"]])
    capfd.readouterr()
    assert main(["predict", "runs/ner", "held.jsonl"]) == 0
    said = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert sum(line["tags"] == line["record"]["tags"] for line in said) > 30 and len(said) == 40
    (tmp_path / "new.csv").write_text(f'title\n"{text}"\n')
    assert main(["predict", "runs/ner", "new.csv", "--columns", "text=title"]) == 0
    [line] = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [each["text"] for each in line["entities"]] == ["fine day", "OLD"]
    assert main(["predict", "runs/ner", "train.conll"]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[0])["record"]["tokens"] == sentences[0][0]
    assert main(["predict", "runs/ner", "train.conll", "--columns", "tokens=-1"]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[0])["record"]["tokens"] == sentences[0][1]
    assert main(["predict", "runs/ner", "train.conll", "--columns", "tokens=word"]) == 2
    assert "--columns=tokens=word must be the place of the words in a line" in capfd.readouterr().err
    assert main(["evaluate", "runs/ner", "--bootstrap", "50", "--predictions", "said.jsonl"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["span_f1"] == last["span_f1"]
    assert found["intervals"]["span_f1"][0] <= found["span_f1"] <= found["intervals"]["span_f1"][1]
    assert len((tmp_path / "said.jsonl").read_text().splitlines()) == 40


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a O\nb O\n", "all 2 words have the tag 'O', and of that nothing is learned"),
        ("a NN\nb NN\n", "all 2 words have the tag 'NN', and of that nothing is learned"),
        (
            "a B-Q\n",
            "held.jsonl:1: the label 'B-T' is none of those that the training text has: 'O', 'B-Q', 'I-Q'",
        ),
        ("a O\nb\n", "train.conll:2: 'b' has 1 fields, and the first word of the file has 2"),
    ],
    ids=["no span", "one tag", "unseen", "ragged"],
)
def test_tags_that_are_none_are_told_at_once(tmp_path, monkeypatch, capfd, text, words):
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path)
    (tmp_path / "train.conll").write_text(text)
    (tmp_path / "held.jsonl").write_text(json.dumps({"tokens": ["a"], "tags": ["B-T"]}))
    assert main(["train", "ner.yaml", "--dry-run"]) == 1
    error = capfd.readouterr().err
    assert words in error and "Traceback" not in error, error


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"export": {"at_end": True}}, "export.at_end=true is not for task.type=token_classification"),
        ({"model": {"type": "encoder", "head": "span"}}, "which needs token_classification"),
        (
            {"task": {"type": "token_classification", "tag_names": ["O", "O"]}},
            "task.tag_names=['O', 'O'] names O twice",
        ),
    ],
)
def test_what_cannot_be_is_told_by_the_config(sections, words):
    given = {"name": "x", "task": "token_classification", "model": {"type": "encoder"}, **sections}
    data = {"train": {"type": "conll", "path": "a.conll"}}
    with pytest.raises(ConfigError) as error:
        config_from_mapping({**given, "data": data})
    assert words in str(error.value)


def test_a_row_too_short_and_a_tag_unknown_are_told(tokenizer):
    with pytest.raises(DataError, match="leaves no room beside the 2 tokens around a text"):
        TaggedText(tokenizer, seq_len=2, packing=True, class_names=NAMES)
    maker = TaggedText(tokenizer, seq_len=T, packing=True, class_names=NAMES)
    record = Record({"tokens": ["bat"], "tags": ["B-X"], "text": "bat"}, "f:1")
    with pytest.raises(
        DataError, match="f:1: the tag 'B-X' is none of those that the training text has: 'O'"
    ):
        list(maker.examples([record], [0]))
