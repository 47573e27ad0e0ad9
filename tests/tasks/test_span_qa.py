"""Questions, contexts and answers: found in windows, learned, told, and scored by the text of their records."""

import itertools
import json
import re

import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tests.tasks.rows import evaluated, rows_of
from tests.tasks.test_contrastive import WORDS
from tests.tiny import randomized
from tests.tokenizers.hard_texts import HARD_CASES, random_texts
from tests.training.toy import DIVISIONS, assert_same_training, trained_on_rows
from tfllm.commands.main import main
from tfllm.config import ConfigError, config_from_mapping
from tfllm.data.errors import DataError
from tfllm.data.pipeline import evaluation_batches
from tfllm.data.record import Record
from tfllm.data.sources import Source
from tfllm.evaluation.answers import answer_scores
from tfllm.evaluation.predictions import Prediction
from tfllm.generation.errors import GenerationError
from tfllm.models.encoder import Encoder
from tfllm.tasks.examples.asked_record import Asked, asked_record
from tfllm.tasks.examples.asked_text import ContextWindows, answer_in
from tfllm.tasks.span_qa import SpanQA, answer_of
from tfllm.tokenizers import ByteBPETokenizer, SentencePieceTokenizer, WordPieceTokenizer
from tfllm.tokenizers.byte import ByteTokenizer
from tfllm.tokenizers.repair import repair_text

T = 24


def asked(context, question="Who?"):
    return Asked(question, context, (), None, False)


@pytest.fixture(scope="module")
def tokenizers():
    hard = [repair_text(text) for text in [*HARD_CASES, *random_texts(60, seed=3)]]
    texts = [" ".join(WORDS), *hard]
    return {
        "wordpiece": WordPieceTokenizer.train(texts, vocab_size=600),
        "byte_bpe": ByteBPETokenizer.train(texts, vocab_size=400),
        "sentencepiece": SentencePieceTokenizer.train(texts, vocab_size=900),
        "byte": ByteTokenizer(),
    }


@pytest.mark.parametrize("kind", ["wordpiece", "byte_bpe", "sentencepiece", "byte"])
def test_an_answer_is_found_again_wherever_it_stands(tokenizers, kind):
    """At every place of a context of several windows; of what a token holds besides, no character is left out."""
    tokenizer = tokenizers[kind]
    context = "Ünïcode 🤗 wörds, e\u0301te\u0301 北京  don't 3.5% (bat)\n\ncon " * 3
    windows = ContextWindows(tokenizer, 40, 12).of(asked(context))
    assert len(windows) > 2
    spans = [
        match.span() for match in re.finditer(r"\S+", context)
    ]  # of which some have several blanks between them
    found = 0
    for first, more in itertools.product(range(len(spans) - 2), (0, 2)):
        start, stop = spans[first][0], spans[first + more][1]
        holding = []
        for window in windows:
            marks = answer_in(window, (start, stop))
            if marks[0] == 3:
                assert np.count_nonzero(marks) == 1
                continue
            [begin], [end] = np.nonzero(marks & 1)[0], np.nonzero(marks & 2)[0]
            text = context[window.begins[begin] - 1 : window.ends[end]]
            assert text.strip() == context[start:stop].strip(), (
                "the tokens at its borders are those of its words"
            )
            holding.append((begin, end))
        if len(tokenizer.encode(context[start:stop])) < 12:  # what is longer than the stride may lie across
            found += 1
            assert holding
    assert found > 20


def test_a_window_shares_its_stride_with_the_next_and_every_token_is_seen(tokenizers):
    tokenizer = tokenizers["byte"]
    for stride, size in ((0, 60), (5, 60), (100, 60), (5, 22)):
        windows = ContextWindows(tokenizer, 30, stride).of(asked("x" * size))
        room = (
            30
            - len("Who?")
            - sum(map(len, (tokenizer.prefix_ids, tokenizer.separator_ids, tokenizer.suffix_ids)))
        )
        places = [np.nonzero(window.begins)[0] for window in windows]
        seen = [window.begins[place].tolist() for window, place in zip(windows, places, strict=True)]
        assert sorted({place for each in seen for place in each}) == list(range(1, size + 1))
        assert all(len(each) <= room for each in seen)
        for one, other in itertools.pairwise(seen[:-1]):
            assert len(set(one) & set(other)) == min(stride, room // 2)
    with pytest.raises(
        DataError, match=r"f: the question 'xxx.*' has 40 tokens, which leaves no room for its context"
    ):
        ContextWindows(tokenizer, 30, 5).of(asked("x", question="x" * 40), at="f: ")


def test_what_records_ask():
    context = "Ada met Ada in London."
    given = {"question": "Where?", "context": context}

    def found(answers):
        return asked_record(Record({**given, "answers": answers}))

    for answers in (
        [{"text": "London", "answer_start": 15}],
        {"text": ["London"], "answer_start": [15]},
        "London",
        [" London "],
        [{"text": " London", "answer_start": 14}],
    ):
        each = found(answers)
        assert (each.texts, each.span, each.moved, each.is_lost) == (("London",), (15, 21), False, False)
    assert found([{"text": "London", "answer_start": 3}]).moved
    assert found([{"text": "Ada", "answer_start": 1}]).is_lost and found("Paris").is_lost, (
        "which of two, nobody knows"
    )
    assert found([{"text": "Ada", "answer_start": 8}]).span == (8, 11)
    for answers in ([], None, "", {"text": [], "answer_start": []}):
        assert found(answers).texts == () and not found(answers).is_lost
    several = found([{"text": "Paris", "answer_start": 0}, {"text": "Ada", "answer_start": 0}])
    assert several.span == (0, 3) and several.texts == ("Paris", "Ada")


@pytest.mark.parametrize(
    "answers", [3, [3], [{"text": 1}], [{"text": "a", "answer_start": "0"}], {"text": ["a", 2]}]
)
def test_answers_that_are_none_are_told(answers):
    record = Record({"question": "Who?", "context": "a b", "answers": answers}, "f:3")
    with pytest.raises(DataError, match=r"f:3: 'answers' must be a list of \{text, answer_start\}"):
        asked_record(record)


class Questions(Source):
    """The answer is what stands behind the word of the question; of every fourth there is none."""

    def __init__(self, count=40):
        rng = np.random.default_rng(0)
        self.rows = []
        for number in range(count):
            words = [str(word) for word in rng.permutation(WORDS)[: 4 + number % 30]]
            place = int(rng.integers(len(words) - 2))
            answer = " ".join(words[place + 1 : place + 2 + number % 2])
            start = len(" ".join(words[: place + 1])) + 1
            answers = [] if number % 4 == 3 else [{"text": answer, "answer_start": start}]
            row = {"question": words[place], "context": " ".join(words), "answers": answers}
            self.rows.append({**row, "weight": 1.0 + number % 3})

    def records(self):
        return (Record(row) for row in self.rows)

    def describe(self):
        return "questions"

    def fingerprint(self):
        return json.dumps(self.rows)


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer.train([" ".join(WORDS)] * 4, vocab_size=200)


@pytest.fixture(scope="module")
def task():
    return SpanQA(stride=6, max_answer_tokens=8, unanswerable=True)


@pytest.fixture(scope="module")
def stores(task, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return {
        packing: rows_of(task, tokenizer, folder, Questions(), seq_len=T * (1 + packing), packing=packing)
        for packing in (True, False)
    }


def model_of(tokenizer, **settings):
    sizes = {"num_layers": 1, "hidden_dim": 16, "num_heads": 2, "max_seq_len": 2 * T, "head": "span"}
    return randomized(Encoder(vocab_size=tokenizer.vocab_size, **{**sizes, **settings}), seed=3)


def said_of(task, model, store, size):
    return evaluated(task, model, store, size, source=Questions())


def test_the_loss_is_the_mean_of_both_cross_entropies_of_each_window(task, stores, tokenizer):
    """As transformers has it for a row without padding."""
    model = model_of(tokenizer)
    for store in stores.values():
        loss = weight = 0.0
        for features in evaluation_batches(store, batch_size=16, transform=task.features):
            logits = model(features)["logits"].numpy().astype(np.float64)
            ids, answer = features["segment_ids"].numpy(), features["answer"].numpy()
            for row, segment in np.argwhere(features["example_ids"].numpy() >= 0):
                own = ids[row] == segment + 1
                logs = logits[row, own] - np.log(np.exp(logits[row, own]).sum(axis=0))
                number = features["example_ids"].numpy()[row, segment]
                for index, bit in enumerate((1, 2)):
                    [place] = np.nonzero(answer[row, own] & bit)[0]
                    loss -= logs[place, index] / 2 * (1 + number % 3)
                weight += 1 + number % 3
        found = said_of(task, model, store, 16).metrics
        assert found["loss"] == pytest.approx(loss / weight, rel=1e-5)


def test_answers_are_those_of_all_windows_whatever_the_batch_size(task, stores, tokenizer):
    model, store, rows = model_of(tokenizer), stores[False], Questions().rows
    assert store.num_rows > len(rows), "some contexts are cut"
    one, other = (said_of(task, model, store, size) for size in (3, 64))
    assert one.metrics == pytest.approx(other.metrics, rel=1e-5) and one.metrics["questions"] == 40
    windows = {}
    for features in evaluation_batches(store, batch_size=64, transform=task.features):
        logits = model(features)["logits"].numpy()
        for row, number in enumerate(features["example_ids"].numpy()[:, 0]):
            if number >= 0:
                own = features["segment_ids"].numpy()[row] > 0
                parts = (logits[row, own], *(features[n].numpy()[row, own] for n in ("begins", "ends")))
                windows.setdefault(int(number), []).append(parts)
    for each, row in zip(one.predictions, rows, strict=True):
        spans = [
            (both[i, 0] + both[j, 1], begins[i] - 1, ends[j])
            for both, begins, ends in windows[each.number]
            for i, j in itertools.product(range(len(begins)), repeat=2)
            if i <= j < i + 8 and begins[i] and begins[j]
        ]
        score, start, stop = max(spans)
        null = min(both[0].sum() for both, _, _ in windows[each.number])
        text = "" if null > score else row["context"][start:stop]
        assert str(each.values["answer"]) == text
        assert float(each.values["null_odds"]) == pytest.approx(null - score, abs=1e-5)
    meant = [[answer["text"] for answer in row["answers"]] for row in rows]
    scores = [
        answer_scores(str(each.values["answer"]), texts)
        for each, texts in zip(one.predictions, meant, strict=True)
    ]
    assert one.metrics["exact_match"] == pytest.approx(np.mean([exact for exact, _ in scores]))
    assert one.metrics["f1"] == pytest.approx(np.mean([f1 for _, f1 in scores]))
    assert one.metrics["best_f1"] >= one.metrics["f1"]


def test_packed_answers_are_those_of_each_window_alone(task, tokenizer, tmp_path):
    said = {}
    for packing in (True, False):
        store = rows_of(task, tokenizer, tmp_path, Questions(), seq_len=2 * T, packing=packing)
        said[packing] = said_of(task, model_of(tokenizer), store, 7)
    assert said[True].metrics == pytest.approx(said[False].metrics, rel=1e-5)
    for one, other in zip(said[True].predictions, said[False].predictions, strict=True):
        assert float(one.values["score"]) == pytest.approx(float(other.values["score"]), abs=1e-5)


@pytest.mark.parametrize("division", ["4 microbatches", pytest.param("2 x 2", marks=pytest.mark.slow)])
def test_replicas_and_microbatches_equal_one_device(task, stores, tokenizer, division):
    made = (task, stores[True], lambda dropout: model_of(tokenizer, dropout=dropout))
    assert_same_training(trained_on_rows(*made), trained_on_rows(*made, **DIVISIONS[division]), atol=2e-6)


def test_metrics_are_those_of_their_definitions():
    task = SpanQA(stride=1, max_answer_tokens=3, unanswerable=True)
    said = [(0.5, (1, 1), (0, 0)), (-1.0, (0, 0.5), (0, 0)), (-2.0, (0, 0), (1, 1)), (3.0, (0, 0), (1, 1))]
    predictions = [
        Prediction(number, {"null_odds": np.array(odds), "scores": np.array([answer, silence])})
        for number, (odds, answer, silence) in enumerate(said)
    ]
    found = task.evaluation_metrics({"loss": 3.0, "weight": 2.0}, predictions)
    assert (found["loss"], found["exact_match"], found["questions"]) == (1.5, 0.25, 4.0)
    assert found["f1"] == pytest.approx((0 + 0.5 + 0 + 1) / 4)
    assert found["answered_f1"] == pytest.approx(0.25) and found["silence_accuracy"] == 0.5
    assert found["best_f1"] == pytest.approx((1 + 0.5 + 0 + 1) / 4) and found["best_null_odds"] == 0.5
    always = SpanQA(stride=1, max_answer_tokens=3)
    assert always.evaluation_metrics({"loss": 3.0, "weight": 2.0}, predictions)["f1"] == pytest.approx(
        1.5 / 4
    )
    assert set(always.metric_modes) == {"exact_match", "f1", "loss"}
    none = answer_of(
        [{"start": np.zeros(3), "end": np.zeros(3), "begins": np.zeros(3, int), "ends": np.zeros(3, int)}],
        max_answer_tokens=2,
    )
    assert none == (0, 0, -np.inf, 0.0)


YAML = """
name: qa
task: {type: span_qa, stride: 8}
tokenizer: {type: wordpiece, vocab_size: 260}
model: {type: encoder, num_layers: 1, hidden_dim: 16, num_heads: 2, norm_placement: pre}
data:
  train: {type: squad, path: train.json}
  validation: {type: jsonl, path: held.jsonl, columns: {question: q, context: text, answers: said}}
  seq_len: 24
  num_workers: 1
optimizer: {learning_rate: 0.02, schedule: constant}
training: {steps: 120, global_batch_size: 8, jit_compile: false, log_every: 40, evaluate_every: 60, best_metric: f1}
"""


def write_questions(folder, lost=()):
    """The answer is the word behind `fine`; where there is none, there is no answer."""
    rng = np.random.default_rng(4)
    asked = []
    for number in range(200):
        words = [str(word) for word in rng.choice(WORDS[:10], 4 + number % 12)]
        place = int(rng.integers(len(words)))
        if number % 3:
            words[place:place] = ["fine", str(rng.choice(WORDS[10:]))]
        start = len(" ".join(words[: place + 1])) + 1
        answers = [{"text": words[place + 1], "answer_start": start}] if number % 3 else []
        asked.append({"question": "what day", "context": " ".join(words), "answers": answers})
    for number, answers in lost:
        asked[number]["answers"] = answers
    train = [
        {"context": each["context"], "qas": [{key: each[key] for key in ("question", "answers")}]}
        for each in asked[:150]
    ]
    (folder / "train.json").write_text(json.dumps({"data": [{"title": "all", "paragraphs": train}]}))
    names = {"q": "question", "text": "context", "said": "answers"}
    held = [{ours: each[theirs] for ours, theirs in names.items()} for each in asked[150:]]
    (folder / "held.jsonl").write_text("\n".join(map(json.dumps, held)))
    (folder / "qa.yaml").write_text(YAML)
    return asked


def test_from_squad_to_answers(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    lost = [(1, [{"text": "nowhere", "answer_start": 0}]), (2, [{"text": "fine", "answer_start": 10_000}])]
    asked = write_questions(tmp_path, lost)
    assert main(["train", "qa.yaml"]) == 0
    told = " ".join(capfd.readouterr().err.split())
    assert "questions: 150, of which 50 have no answer" in told
    assert "1 answers are elsewhere in their contexts than answer_start says, and were found there" in told
    assert "1 questions are not learned from: their answers are not in their contexts, such as" in told
    lines = [json.loads(line) for line in (tmp_path / "runs/qa/metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["split"] == "validation"][-1]
    assert last["f1"] > 0.9 and last["silence_accuracy"] > 0.8 and last["answered_f1"] > 0.9
    lm = tfllm.load("runs/qa", jit_compile=False)
    assert lm.config.task.unanswerable and lm.tells == "answers"
    word = WORDS[12]
    context = "bat con " * 20 + f"fine {word} " + "bat con " * 20
    found = lm.answer("what day", context)
    assert (found["answer"], context[found["start"] : found["end"]]) == (word, word), (
        "in one of several windows"
    )
    assert 0.0 < found["score"] <= 1.0 and found["null_odds"] < 0
    nothing = lm.answer("what day", "bat con bat")
    assert nothing["answer"] == "" and nothing["null_odds"] > 0
    assert lm.answer("what day", "bat con bat", unanswerable=False)["answer"] != ""
    assert lm.answer(["what day"], [context]) == [found] and lm.answer([], []) == []
    with pytest.raises(GenerationError, match="give a question and its context, or a list"):
        lm.answer("what day", [context])
    capfd.readouterr()
    (tmp_path / "new.csv").write_text(f"question,context\nwhat day,{context}\n")
    assert main(["predict", "runs/qa", "new.csv"]) == 0
    line = json.loads(capfd.readouterr().out)
    assert line["answer"] == word and line["record"]["context"] == context
    assert main(["evaluate", "runs/qa", "--bootstrap", "50", "--predictions", "said.jsonl"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["f1"] == last["f1"] and len(found["intervals"]["f1"]) == 2
    said = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    right = [
        each["answer"] == (row["answers"] or [{"text": ""}])[0]["text"]
        for each, row in zip(said, asked[150:], strict=True)
    ]
    assert np.mean(right) == pytest.approx(last["exact_match"])


def test_what_a_model_without_token_types_is_given_has_none(tokenizer):
    maker = SpanQA(stride=4, max_answer_tokens=4, token_types=False).examples_of(
        tokenizer, seq_len=T, packing=True
    )
    assert "token_type_ids" not in {feature.name for feature in maker.layout.features}
    model = model_of(tokenizer, num_token_types=0)
    assert model({"token_ids": tf.constant([[1, 2, 3]])})["logits"].shape == (1, 3, 2)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"said": [{"text": "nowhere"}]},
            "of 1 questions none has an answer in its context, and the answers of 1 are not",
        ),
        ({"said": []}, "of 1 questions none has an answer in its context; name other columns"),
        ({"said": 3}, "a.jsonl:1: 'answers' must be a list of {text, answer_start}"),
        (
            {"q": "x " * 40, "said": "con"},
            "has 80 tokens, which leaves no room for its context in a row of 24",
        ),
    ],
    ids=["lost", "none", "no answers", "long"],
)
def test_questions_that_are_none_are_told_at_once(tmp_path, monkeypatch, capfd, fields, words):
    monkeypatch.chdir(tmp_path)
    write_questions(tmp_path)
    row = {"q": "what day", "text": "bat con", **fields}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    train = "data.train={type: jsonl, path: a.jsonl, columns: {question: q, context: text, answers: said}}"
    assert main(["train", "qa.yaml", "--dry-run", train, "tokenizer=byte"]) == 1
    error = capfd.readouterr().err
    assert words in error and "Traceback" not in error, error


def test_what_cannot_be_is_told_by_the_config():
    part = {"type": "squad", "path": "a.json"}
    mixture = {"type": "mixture", "sources": [{"weight": 1, "source": part}]}
    given = {"name": "x", "task": "span_qa", "model": {"type": "encoder"}, "data": {"train": mixture}}
    with pytest.raises(ConfigError) as error:
        config_from_mapping({**given, "export": {"at_end": True}})
    assert "export.at_end=true is not for task.type=span_qa" in str(error.value)
    assert "data.validation is required beside a mixture" in str(error.value)
    given["data"] |= {"validation": {"type": "squad", "path": "held.json"}, "test_fraction": 0.1}
    with pytest.raises(ConfigError, match=r"data\.test_fraction=0\.1 holds out of a mixture"):
        config_from_mapping(given)
