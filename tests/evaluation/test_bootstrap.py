"""Intervals of metrics, by drawing examples again."""

import json
import shutil

import numpy as np
import pytest

from tests.tasks.test_classification import YAML, write_reviews
from tfllm.commands.main import main
from tfllm.evaluation.bootstrap import differences, intervals
from tfllm.evaluation.predictions import Prediction
from tfllm.training.checkpoint import checkpoint_paths


def said(right):
    return [Prediction(number, {"right": np.array(each)}) for number, each in enumerate(right)]


def accuracy(predictions):
    return {"accuracy": float(np.mean([each.values["right"] for each in predictions])), "loss": 3.0}


@pytest.mark.parametrize(("count", "share"), [(400, 0.5), (400, 0.9), (100, 0.5)])
def test_an_interval_is_that_of_the_binomial(count, share):
    predictions = said(np.arange(count) < share * count)
    least, most = intervals(accuracy, predictions, ["accuracy"], samples=2000)["accuracy"]
    deviation = 1.96 * np.sqrt(share * (1 - share) / count)
    assert least == pytest.approx(share - deviation, abs=0.1 * deviation + 1 / count)
    assert most == pytest.approx(share + deviation, abs=0.1 * deviation + 1 / count)


def test_two_models_draw_the_same_examples():
    right = np.arange(300) % 3 > 0
    better = right | (np.arange(300) < 30)  # ten examples more, and none fewer
    one, other = (accuracy, said(better)), (accuracy, said(right))
    least, most = differences(one, other, ["accuracy"], samples=2000)["accuracy"]
    deviation = 1.96 * np.sqrt(1 / 30 * (29 / 30) / 300)
    assert least == pytest.approx(1 / 30 - deviation, abs=0.004)
    assert most == pytest.approx(1 / 30 + deviation, abs=0.004)
    assert differences(one, one, ["accuracy"], samples=50) == {"accuracy": [0.0, 0.0]}
    alone = intervals(accuracy, said(right), ["accuracy"], samples=500)["accuracy"]
    assert most - least < alone[1] - alone[0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reviews")
    yaml = YAML.replace("export: {at_end: true}\n", "").replace(
        "evaluate_every: 40, best_metric: accuracy", ""
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_reviews(folder)
        (folder / "reviews.yaml").write_text(yaml)
        more = ["training.steps=60", "training.checkpoint_every=4", "training.keep_checkpoints=20"]
        assert main(["train", "reviews.yaml", "--run-dir", "runs/long", *more]) == 0
        shutil.copytree("runs/long", "runs/short")  # as it was after four steps
        for path in checkpoint_paths(folder / "runs/short/checkpoints")[1:]:
            shutil.rmtree(path)
        yield folder


def test_evaluate_tells_intervals_and_what_two_runs_differ_by(runs, monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(runs)
    out = tmp_path / "said.jsonl"
    options = ["--bootstrap", "200", "--against", "runs/short", "--predictions", str(out)]
    assert main(["evaluate", "runs/long", *options]) == 0
    found = json.loads(capfd.readouterr().out)
    for name in ("accuracy", "f1_macro", "mcc", "calibration_error"):
        least, most = found["intervals"][name]
        assert least <= found[name] <= most or name == "calibration_error"
    against = found["against"]["accuracy"]
    assert against["theirs"] + against["difference"] == pytest.approx(found["accuracy"])
    assert (
        against["interval"][0] > 0
        and against["interval"][0] <= against["difference"] <= against["interval"][1]
    )
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == found["examples"]
    right = np.mean([np.argmax(line["probabilities"]) == line["label"] for line in lines])
    assert right == pytest.approx(found["accuracy"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bootstrap", "10"], "--bootstrap=10 is too few for a 95% interval"),
        (["--against", "TINY"], "says nothing of the same examples"),
    ],
    ids=["few", "another task"],
)
def test_what_cannot_be_told_is_said(runs, tiny_run, monkeypatch, capfd, options, words):
    monkeypatch.chdir(runs)
    options = [str(tiny_run) if word == "TINY" else word for word in options]
    assert main(["evaluate", "runs/short", *options]) == 2
    assert words in capfd.readouterr().err


def test_a_task_without_predictions_of_examples_says_so(tiny_run, capfd):
    assert main(["evaluate", str(tiny_run), "--bootstrap", "100"]) == 2
    assert "needs a prediction of each example, and task.type=causal_lm has none" in capfd.readouterr().err
