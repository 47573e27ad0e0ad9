"""Text that is held out to test on: its share, its own file, what of it is trained on, and what it is tested by."""

import json

import pytest

import tfllm
from tests.config.minimal import minimal
from tfllm import experiment
from tfllm.commands.main import main
from tfllm.config import ConfigError, config_from_mapping
from tfllm.experiment.overlap import overlaps
from tfllm.training.checkpoint_folder import read_best, write_best

WORDS = ["bad", "poor", "awful", "good", "fine", "great", "so", "the", "film", "plot", "music", "end"]


def write_reviews(path, count, first=0):
    lines = [
        f"{WORDS[i % 6]} {WORDS[6 + i % 5]} {WORDS[7 + i % 4]} {i},{'good' if i % 6 > 2 else 'bad'}"
        for i in range(first, first + count)
    ]
    path.write_text("\n".join(["text,label", *lines]) + "\n")


YAML = """
name: reviews
task: classification
tokenizer: {type: byte_bpe, vocab_size: 320}
model: {type: encoder, num_layers: 1, hidden_dim: 16, num_heads: 2}
data: {train: {type: csv, path: reviews.csv}, validation_fraction: 0.2, test_fraction: 0.3, seq_len: 24, num_workers: 1}
optimizer: {type: adamw, learning_rate: 1e-2}
training: {steps: 8, global_batch_size: 8, evaluate_every: 4, best_metric: accuracy, jit_compile: false}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_reviews(tmp_path / "reviews.csv", 120)
    (tmp_path / "config.yaml").write_text(YAML)
    return tmp_path


def test_a_run_is_tested_once_by_the_checkpoint_that_validation_chose(folder, capfd):
    assert main(["train", "config.yaml"]) == 0
    assert "test (step " in capfd.readouterr().out
    run, found = folder / "runs/reviews", json.loads((folder / "runs/reviews/test.json").read_text())
    best = read_best(run / "checkpoints")
    assert found["step"] == best["step"] and found["chosen_by"] == "validation accuracy"
    # Had another been better, that would be what is loaded, exported and tested.
    other = 4 if best["step"] == 8 else 8
    write_best(run / "checkpoints", {**best, "step": other})
    assert tfllm.load(run, jit_compile=False).step == other
    before = (run / "test.json").read_bytes()
    write_best(run / "checkpoints", best)
    assert main(["train", "config.yaml"]) == 0
    assert "test (step" not in capfd.readouterr().out and (run / "test.json").read_bytes() == before

    assert main(["evaluate", str(run), "--split", "test", "evaluation.bootstrap_samples=40"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["accuracy"] == found["accuracy"] and told["own_rows"] is True
    assert set(told["intervals"]) >= {"accuracy"}
    assert main(["evaluate", str(run)]) == 0
    assert json.loads(capfd.readouterr().out)["split"] == "validation"


def test_the_three_sides_are_apart_and_together_all(folder):
    for kind in ("file", "mixture"):
        csv = {"type": "csv", "path": "reviews.csv"}
        write_reviews(folder / "more.csv", 60, first=500)
        more = {"type": "csv", "path": "more.csv"}
        parts = [{"weight": 1, "source": csv}, {"weight": 1, "source": more}]
        train = csv if kind == "file" else {"type": "mixture", "sources": parts}
        data = {
            "train": train,
            "test_fraction": 0.3,
            "validation_fraction": 0.2,
            "seq_len": 64,
            "packing": False,
        }
        prepared = experiment.prepare(config_from_mapping(minimal(tokenizer="byte", data=data)))
        counts = {side: rows.num_documents for side, rows in prepared.sides.items()}
        assert sum(counts.values()) == {"file": 120, "mixture": 180}[kind] and min(counts.values()) > 10


def test_text_that_is_trained_on_too_is_told(folder):
    lines = (folder / "reviews.csv").read_text().splitlines()
    (folder / "test.csv").write_text("\n".join([lines[0], *lines[1:8], "something new,good"]))
    mapping = minimal(data={"train": {"type": "csv", "path": "reviews.csv"}, "test": {"path": "test.csv"}})
    config = config_from_mapping(mapping)
    assert config.data.test.type == "csv"
    [line] = overlaps(config, experiment.make_source(config.data.train))
    assert line.startswith("test: of 7 of 8 records the text stands in the training text too")
    write_reviews(folder / "test.csv", 5, first=900)
    assert not list(overlaps(config, experiment.make_source(config.data.train)))


CANNOT = [
    ({"test": {"path": "reviews.csv"}}, "data.test is the text of data.train"),
    (
        {"test": {"path": "a.csv"}, "test_fraction": 0.1},
        "data.test_fraction=0.1 holds documents of data.train out, and",
    ),
    (
        {"test": {"path": "a.csv"}, "validation": {"path": "a.csv"}},
        "data.test is the text of data.validation, which",
    ),
    (
        {"validation": {"path": "a.csv"}, "split_by": "page"},
        "data.split_by=page divides data.train, of which nothing",
    ),
    ({"test_fraction": 1.0}, "data.test_fraction=1.0 must be less than 1.0"),
]


@pytest.mark.parametrize(("keys", "words"), CANNOT, ids=str)
def test_what_contradicts_itself_is_told(keys, words):
    with pytest.raises(ConfigError) as told:
        config_from_mapping(minimal(data={"train": {"type": "csv", "path": "reviews.csv"}, **keys}))
    assert words in str(told.value)


def test_a_class_that_only_the_test_has_is_named(folder, capfd):
    (folder / "test.csv").write_text("text,label\ngood film,good\nodd film,odd\n")
    assert main(["train", "config.yaml", "data.test_fraction=0", "data.test.path=test.csv"]) == 1
    told = capfd.readouterr().err
    assert "test.csv:3: the label 'odd' is none of those that the training text has: 'bad', 'good'" in told
    assert "1 record to test on" in told


def test_where_nothing_was_held_out_to_test_on_that_is_told(folder, capfd):
    assert main(["train", "config.yaml", "data.test_fraction=0"]) == 0
    assert not (folder / "runs/reviews/test.json").exists()
    capfd.readouterr()
    assert main(["evaluate", "runs/reviews", "--split", "test"]) == 2
    assert (
        "data.test is required: nothing was held out to test on; write data.test.path"
        in capfd.readouterr().err
    )
    write_reviews(folder / "new.csv", 20, first=700)
    assert (
        main(["evaluate", "runs/reviews", "--split", "test", "data.test.type=csv", "data.test.path=new.csv"])
        == 0
    )
    assert json.loads(capfd.readouterr().out)["own_rows"] is False
