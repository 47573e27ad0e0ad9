"""How two places of a text are related: marked, kept in view, learned and told."""

import json

import numpy as np
import pytest

import tfllm
from tests.tasks.test_contrastive import WORDS
from tfllm.commands.main import main
from tfllm.config import ConfigError, config_from_mapping
from tfllm.data.errors import DataError
from tfllm.data.record import Record
from tfllm.evaluation.classification import relation_f1
from tfllm.evaluation.predictions import Prediction
from tfllm.generation.errors import GenerationError
from tfllm.tasks.errors import TaskError
from tfllm.tasks.examples.labels import ClassLabels
from tfllm.tasks.examples.marked_text import MarkedText, place_of
from tfllm.tasks.relation_extraction import RelationExtraction
from tfllm.tokenizers.byte import ByteTokenizer

NAMES = ("a", "b", "none")


def shown(text, head, tail, seq_len=100):
    tokenizer = ByteTokenizer()
    maker = MarkedText(tokenizer, seq_len=seq_len, packing=True, labels=ClassLabels(NAMES))
    return tokenizer.decode(maker.marked(text, head, tail).tolist())


def test_both_places_are_marked_whichever_comes_first():
    assert shown("Ada met Bo.", (0, 3), (8, 10)) == "@ Ada @ met # Bo #."
    assert shown("Ada met Bo.", (8, 10), (0, 3)) == "# Ada # met @ Bo @."
    assert shown("éa🤗bc", (2, 3), (3, 4)) == "éa@ 🤗 @# b #c"
    assert shown("the cat", (0, 7), (4, 7)) == "@ the # cat # @"
    assert shown("the cat", (4, 7), (0, 7)) == "# the @ cat @ #"
    assert shown("the cat", (0, 7), (0, 3)) == "@ # the # cat @"


def test_of_a_long_text_as_much_is_kept_around_both_as_fits():
    text = "x" * 40 + "Ada met Bo" + "y" * 40
    head, tail = (40, 43), (48, 50)
    for seq_len in range(21, 60):
        kept = shown(text, head, tail, seq_len=seq_len)
        assert "@ Ada @ met # Bo #" in kept
        sides = kept.partition("@ Ada @ met # Bo #")
        assert abs(len(sides[0]) - len(sides[2])) <= 1, "the same on both sides"
    assert shown("Ada met Bo" + "y" * 40, (0, 3), (8, 10), seq_len=30).startswith("@ Ada @ met # Bo #yyy")
    with pytest.raises(
        DataError, match=r"f: from the first of the two marked places .* there are 18 tokens, and a row"
    ):
        MarkedText(ByteTokenizer(), seq_len=12, packing=True, labels=ClassLabels(NAMES)).marked(
            text, head, tail, "f: "
        )


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ([0, 9], "'head' must be where some of the text's 8 characters begin and end, not [0, 9]"),
        ([3, 3], "'head' must be where some"),
        ([3, 4], "'head' must be where some"),
        ("Ada", "'head' must be [start, end], the first character and the one behind the last, not 'Ada'"),
        ([0, True], "'head' must be [start, end]"),
        ({"start": 0}, "'head' must be [start, end]"),
    ],
)
def test_places_that_are_none_are_told(head, words):
    record = Record({"text": "Ada \tmet", "head": head, "tail": {"start": 5, "end": 8}, "label": "a"}, "f:3")
    maker = MarkedText(ByteTokenizer(), seq_len=50, packing=True, labels=ClassLabels(NAMES))
    with pytest.raises(DataError) as error:
        list(maker.examples([record], [0]))
    assert words in str(error.value) and str(error.value).startswith("f:3: ")
    assert place_of(record, "tail") == (5, 8)


def test_f1_counts_what_is_a_relation():
    said, meant = np.array([0, 1, 2, 2, 0, 1]), np.array([0, 2, 2, 1, 1, 1])
    assert relation_f1(said, meant, 2) == pytest.approx(2 * 2 / (4 + 4))
    assert relation_f1(np.array([2, 2]), np.array([2, 2]), 2) == 0.0
    task = RelationExtraction(class_names=NAMES, no_relation="none")
    predictions = [
        Prediction(i, {"probabilities": np.eye(3)[s], "label": np.array(m)})
        for i, (s, m) in enumerate(zip(said, meant, strict=True))
    ]
    found = task.evaluation_metrics({"loss": 1.0, "weight": 2.0}, predictions)
    assert found["relation_f1"] == pytest.approx(0.5) and found["accuracy"] == pytest.approx(3 / 6)
    assert task.of_examples[0] == "relation_f1" and task.metric_modes["relation_f1"] == "max"
    assert "relation_f1" not in RelationExtraction(class_names=NAMES).metric_modes
    with pytest.raises(
        TaskError, match=r"task\.no_relation=no is no relation of the text; there are 'a', 'b', 'none'"
    ):
        RelationExtraction(class_names=NAMES, no_relation="no")


YAML = """
name: relations
task: {type: relation_extraction, no_relation: none}
tokenizer: {type: wordpiece, vocab_size: 260}
model: {type: encoder, num_layers: 1, hidden_dim: 16, num_heads: 2, norm_placement: pre, pooling: mean}
data:
  train: {type: jsonl, path: train.jsonl, columns: {text: sentence, head: one, tail: two, label: how}}
  validation: {path: held.jsonl}
  seq_len: 24
  num_workers: 1
optimizer: {learning_rate: 0.02, schedule: constant}
training: {steps: 100, global_batch_size: 8, jit_compile: false, log_every: 50, evaluate_every: 50, best_metric: relation_f1}
"""


def write_relations(folder):
    """`fine` next to either place says the one, `odd` the other; elsewhere they say nothing."""
    rng = np.random.default_rng(5)
    rows = []
    for number in range(240):
        words = [str(word) for word in rng.choice(WORDS, 5)]
        words[2] = ("fine", "odd", str(words[2]))[number % 3]
        text, starts = " ".join(words), [0]
        for word in words:
            starts.append(starts[-1] + len(word) + 1)
        one, two = ([starts[i], starts[i + 1] - 1] for i in ((0, 4) if number % 2 else (4, 0)))
        rows.append({"sentence": text, "one": one, "two": two, "how": ("good", "bad", "none")[number % 3]})
    for name, part in (("train", rows[:180]), ("held", rows[180:])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    (folder / "relations.yaml").write_text(YAML)
    return rows


def test_from_marked_places_to_relations(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_relations(tmp_path)
    assert main(["train", "relations.yaml"]) == 0
    lines = [
        json.loads(line) for line in (tmp_path / "runs/relations/metrics.jsonl").read_text().splitlines()
    ]
    last = [line for line in lines if line["split"] == "validation"][-1]
    assert last["relation_f1"] > 0.9 and last["accuracy"] > 0.9
    lm = tfllm.load("runs/relations", jit_compile=False)
    assert lm.class_names == ("bad", "good", "none") and lm.tells == "relations"
    text = "bat con fine hust hill"
    found = lm.relate(text, (0, 3), (18, 22))
    assert found["label"] == "good" and found["score"] == max(found["scores"].values())
    assert lm.relate([text], [[18, 22]], [{"start": 0, "end": 3}])[0]["label"] == "good"
    with pytest.raises(GenerationError, match=r"take lm\.relate"):
        lm.classify(text)
    with pytest.raises(GenerationError, match="give a head and a tail for each text"):
        lm.relate([text], [(0, 3)], [])
    with pytest.raises(DataError, match=r"'tail' must be where some of the text's 22 characters"):
        lm.relate(text, (0, 3), (18, 30))
    capfd.readouterr()
    assert main(["predict", "runs/relations", "held.jsonl"]) == 0
    said = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert np.mean([line["label"] == line["record"]["how"] for line in said]) == pytest.approx(
        last["accuracy"]
    )
    assert main(["export", "runs/relations"]) == 1
    assert "a model that tells relations of texts is not exported" in capfd.readouterr().err


def test_what_cannot_be_is_told_by_the_config():
    given = {"name": "x", "model": {"type": "encoder", "head": "span"}, "export": {"at_end": True}}
    task = {"type": "relation_extraction", "balanced": True, "class_weights": {"a": -1}}
    with pytest.raises(ConfigError) as error:
        config_from_mapping({**given, "task": task, "data": {"train": {"type": "jsonl", "path": "a.jsonl"}}})
    for words in (
        "export.at_end=true is not for task.type=relation_extraction",
        "model.head=span is not trained by task.type=relation_extraction",
        "task.balanced=true finds what task.class_weights says",
        "task.class_weights.a=-1.0 must be a number that is not negative",
    ):
        assert words in str(error.value), str(error.value)
