"""How long a training is: passes over its rows, and an end where it no longer gets better."""

import json
import re

import pytest

from tests.promises.runs import documents, mapping
from tfllm import experiment
from tfllm.config import ConfigError, config_from_mapping
from tfllm.training.callbacks import TrainerState
from tfllm.training.display import Display
from tfllm.training.early_stopping import EarlyStopping


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(documents(30)))
    return path


class Words(Display):
    """What a run would show."""

    def __init__(self):
        super().__init__(total_steps=0, silent=True)
        self.lines = []

    def notice(self, text):
        self.lines.append(text)


def test_steps_are_those_of_the_passes(text):
    given = {"epochs": 2.5, "global_batch_size": 4, "profile": [2000, 3000]}
    config = config_from_mapping(mapping(text, training=given))  # the rows will tell whether it is so long
    assert config.training.steps == 1000
    words = []
    with pytest.raises(ConfigError, match=r"training.profile=\[2000, 3000\] must be two steps"):
        experiment.with_steps(config, 99, notify=words.append)
    assert words == ["2.5 epochs of 99 rows: 62 steps of 4"]
    counted = experiment.with_steps(config, 9999, notify=words.append).training
    assert (counted.steps, counted.epochs, counted.evaluate_every) == (6250, None, 2500)
    in_parts = config_from_mapping(mapping(text, training={**given, "microbatch_size": 1}))
    assert experiment.with_steps(in_parts, 9999, notify=words.append).training.steps == 6250
    said = config_from_mapping(mapping(text, training={**given, "evaluate_every": 7}))
    assert experiment.with_steps(said, 9999, notify=words.append).training.evaluate_every == 7
    warm = {"learning_rate": 0.1, "schedule": {"type": "linear", "warmup_steps": 1500}}
    config = config_from_mapping(mapping(text, training={"epochs": 1}, optimizer=warm))
    with pytest.raises(ConfigError, match=r"warmup_steps=1500 exceeds training.steps=7"):
        experiment.with_steps(config, 99)
    share = {"learning_rate": 0.1, "schedule": {"type": "linear", "warmup_fraction": 0.5}}
    config = config_from_mapping(mapping(text, training={"epochs": 1}, optimizer=share))
    few = experiment.with_steps(config, 99, notify=words.append)
    assert few.training.steps == 7 and few.optimizer.schedule == config.optimizer.schedule
    config = config_from_mapping(mapping(text))
    assert experiment.with_steps(config, 99) is config


@pytest.mark.slow
def test_a_run_ends_where_it_no_longer_gets_better_and_goes_on_when_it_may(text, tmp_path):
    def trained(**training):
        settings = {"global_batch_size": 4, "jit_compile": False, "log_every": 5, "best_metric": "loss"}
        optimizer = {"learning_rate": 1e-12, "schedule": "constant"}
        sections = mapping(text, training={**settings, **training}, optimizer=optimizer)
        words = Words()
        outcome = experiment.train(config_from_mapping(sections), tmp_path / "run", words)
        assert outcome.stopped_by is None
        lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
        return words, [(line["split"], line["step"]) for line in lines]

    patient = {"epochs": 0.5, "evaluate_every": 2, "early_stopping": 2}
    words, lines = trained(**patient)
    [rows] = re.findall(r"epochs of (\d+) rows", " ".join(words.lines))
    steps = -(-int(rows) // 8)
    assert words.total_steps == steps > 6
    assert f"ended at step 6 of {steps}" in words.lines[-1]
    assert lines[-2:] == [("validation", 6), ("train", 6)]
    again, lines = trained(**patient)
    assert f"ended at step 6 of {steps}" in again.lines[-1] and lines[-1] == ("train", 6)
    _, lines = trained(**{**patient, "early_stopping": 3})
    assert lines[-1] == ("train", 8), "one evaluation more"
    _, lines = trained(epochs=0.5, evaluate_every=2)
    assert lines[-1][1] == steps


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"early_stopping": 2, "evaluate_every": 5}, "training.early_stopping=2 needs training.best_metric"),
        (
            {"early_stopping": 2, "best_metric": "loss"},
            "training.early_stopping=2 needs training.evaluate_every",
        ),
        ({"epochs": 0}, "training.epochs"),
    ],
    ids=["no metric", "no evaluations", "no passes"],
)
def test_what_cannot_be_is_told_by_the_config(text, training, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        config_from_mapping(mapping(text, training=training))


def test_only_what_is_better_counts():
    early, state = EarlyStopping(("accuracy", "max"), 2), TrainerState()

    def evaluated(step, value):
        state.step = state.validated_step = step
        state.validation = {"accuracy": value}
        early.count(state)
        early.count(state)  # of the same evaluation
        return early.ended(state)

    assert not any([evaluated(1, 0.5), evaluated(2, float("nan")), evaluated(3, 0.6), evaluated(4, 0.6)])
    state.step = 5
    early.count(state)  # no evaluation here
    assert not early.ended(state)
    restored = TrainerState(**{"step": 5, **state.saved()})
    assert (restored.best_value, restored.waited) == (0.6, 1)
    assert evaluated(6, 0.55)
