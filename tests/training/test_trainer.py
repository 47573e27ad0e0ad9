import io
import json
import os
import resource
import signal

import numpy as np
import pytest
import tensorflow as tf

from tests.training.toy import batches, toy_step
from tfllm.training.callbacks import Evaluate, Log, Profile, Sample, Save, TrainerState
from tfllm.training.checkpoint import Checkpointer
from tfllm.training.display import Display
from tfllm.training.errors import CheckpointError, TrainingError
from tfllm.training.metrics_log import TIMED, MetricsLog, read_metrics
from tfllm.training.model_checkpoint import model_variables
from tfllm.training.train_step import metrics_by_name
from tfllm.training.trainer import Trainer

SETTINGS = {"optimizer": "adamw", "learning_rate": 0.01, "clip_norm": 0.1}


class Recorder:
    """A callback that notes its steps, and may do something at one of them."""

    def __init__(self, every, action=None, at=()):
        self.every = every
        self.at = at
        self.steps = []
        self.action = action

    def __call__(self, state):
        self.steps.append(state.step)
        if self.action:
            self.action(state.step)


def make_trainer(
    folder,
    *,
    steps,
    save_every=100,
    callbacks=(),
    log_every=None,
    train_step=None,
    best=None,
    keep=3,
    **settings,
):
    """A trainer whose state goes through the checkpoints of `folder`, as a command's does."""
    step = train_step or toy_step(**SETTINGS)
    variables = {f"optimizer/{name}": v for name, v in step.optimizer.named_variables.items()}
    checkpointer = Checkpointer(
        folder / "checkpoints", {**model_variables(step.model), **variables}, keep=keep, best=best, notify=str
    )
    restored = checkpointer.restore()
    state = TrainerState(step=restored.step, **restored.state) if restored else TrainerState()
    callbacks = list(callbacks)
    if log_every:
        log = MetricsLog(folder / "metrics.jsonl", step=state.step)
        shared = {"log": log, "writer": tf.summary.create_noop_writer(), "show": lambda entry: None}
        callbacks.append(Log(every=log_every, flops_per_token=1.0, peak_flops=1e9, **shared))
        weights = step.model.trainable_variables
        mean = lambda: {"loss": float(np.mean([np.abs(v.numpy()).mean() for v in weights]))}  # noqa: E731
        callbacks.append(Evaluate(every=4, evaluate=mean, **shared))
    trainer = Trainer(
        train_step=step,
        batches=lambda start: batches(start, steps),
        steps=steps,
        callbacks=callbacks,
        save=Save(every=save_every, checkpointer=checkpointer, best=best),
        **settings,
    )
    return trainer, state


def lines(folder):
    entries = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in entry.items() if k not in TIMED} for entry in entries]


def test_callbacks_are_called_when_due_and_nothing_retraces(tmp_path):
    recorders = [Recorder(3), Recorder(4), Recorder(None), Recorder(13)]
    progress = []
    trainer, state = make_trainer(
        tmp_path,
        steps=13,
        save_every=5,
        callbacks=recorders,
        steps_per_call=6,
        progress=lambda state: progress.append(state.step),
    )
    assert trainer.run(state) is None
    assert [r.steps for r in recorders] == [[3, 6, 9, 12, 13], [4, 8, 12, 13], [13], [13]]
    assert progress == [3, 4, 5, 6, 8, 9, 10, 12, 13]
    assert [p.name for p in trainer.save.checkpointer.paths()] == [
        "step_00000005",
        "step_00000010",
        "step_00000013",
    ]
    assert trainer._loop.experimental_get_tracing_count() == 1
    assert int(trainer.train_step.optimizer.iterations) == 13


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    trainer, state = make_trainer(folder, steps=12, log_every=5)
    trainer.run(state)
    return folder, [v.numpy() for v in trainer.train_step.model.variables]


def test_log_lines_are_sums_divided_once(uninterrupted):
    folder, _ = uninterrupted
    entries = [e for e in read_metrics(folder / "metrics.jsonl") if e["split"] == "train"]
    assert [e["step"] for e in entries] == [5, 10, 12]
    weights = [float(b["loss_weights"].numpy().sum()) for b in batches(0, 12)]
    np.testing.assert_allclose([e["tokens"] for e in entries], np.cumsum(weights)[[4, 9, 11]], atol=0.6)
    step = toy_step(**SETTINGS)
    metrics = np.stack([step(b).numpy() for b in batches(0, 5)])
    assert entries[0]["loss"] == pytest.approx(metrics[:, 0].sum() / metrics[:, 1].sum(), rel=1e-5)
    named = metrics_by_name(metrics)
    assert entries[0]["grad_norm"] == pytest.approx(named["grad_norm"].mean(), rel=1e-4)
    assert entries[0]["update_ratio"] == pytest.approx(named["update_ratio"].mean(), rel=1e-3)
    assert all(e["tokens_per_second"] > 0 for e in entries)


@pytest.mark.parametrize("stop", [7])
def test_stopped_and_continued_equals_uninterrupted(tmp_path, uninterrupted, stop):
    """Ctrl-C in the middle of a log window, and a run that was killed after its last checkpoint."""
    folder, weights = uninterrupted

    def interrupt(step):
        if step == stop:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    trainer, state = make_trainer(tmp_path, steps=12, log_every=5, callbacks=[Recorder(1, interrupt)])
    assert trainer.run(state) == "Ctrl-C"
    assert signal.getsignal(signal.SIGINT) is before
    assert state.step == stop
    assert [p.name for p in trainer.save.checkpointer.paths()] == [f"step_{stop:08d}"]
    # What a kill later on leaves behind: lines after the checkpoint, the last of them cut short.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 8, "split": "validation", "loss": 0.0}) + "\n")
        file.write('{"step": 10, "split": "tra')
    trainer, state = make_trainer(tmp_path, steps=12, log_every=5)
    assert state.step == stop
    assert state.seconds["step"] > 0
    assert trainer.run(state) is None
    assert lines(tmp_path) == lines(folder)
    assert len(lines(folder)) == 3 + 3
    for ours, theirs in zip(trainer.train_step.model.variables, weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs)


def test_an_interrupt_at_the_end_is_the_end(tmp_path):
    trainer, state = make_trainer(
        tmp_path, steps=2, callbacks=[Recorder(2, lambda step: os.kill(os.getpid(), signal.SIGINT))]
    )
    assert trainer.run(state) is None


def test_a_second_interrupt_is_not_held_back(tmp_path):
    def twice(step):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    trainer, state = make_trainer(tmp_path, steps=4, callbacks=[Recorder(1, twice)], steps_per_call=2)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(state)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    def break_model(number):
        if number == 4:
            trainer.train_step.model.stack.final_norm.scale.assign(np.full([8], np.nan))

    failures = []
    trainer, state = make_trainer(
        tmp_path,
        steps=12,
        save_every=2,
        callbacks=[Recorder(4, break_model), late := Recorder(6)],
        on_failure=lambda state: failures.append(state.step) or " (kept)",
    )
    # After the checkpoint of step 4 is on disk, not in it.
    trainer.callbacks = [trainer.save, *trainer.callbacks[:-1]]
    with pytest.raises(TrainingError) as caught:
        trainer.run(state)
    message = str(caught.value)
    assert message.startswith("step 5: loss nan, gradient norm nan: not finite, so the run stops (kept)")
    assert "step_00000004" in message
    assert "optimizer.learning_rate" in message
    assert (state.step, late.steps, failures) == (4, [], [4])
    optimizer = trainer.train_step.optimizer
    assert int(optimizer.iterations) == 5, "no step was taken after the one that failed"
    assert int(optimizer.updates) == 4, "and that one changed nothing"
    _, state = make_trainer(tmp_path, steps=12)
    assert state.step == 4


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGTERM, "SIGTERM"),
        pytest.param(signal.SIGUSR1, "SIGUSR1", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, "SIGHUP", marks=pytest.mark.slow),
    ],
    ids=lambda v: str(v),
)
def test_a_scheduler_that_ends_the_process_gets_a_checkpoint(tmp_path, number, reason):
    trainer, state = make_trainer(
        tmp_path, steps=6, callbacks=[Recorder(3, lambda step: os.kill(os.getpid(), number))]
    )
    assert trainer.run(state) == reason
    assert [p.name for p in trainer.save.checkpointer.paths()] == ["step_00000003"]


def test_calls_are_short_where_steps_are_long(tmp_path):
    trainer, _ = make_trainer(tmp_path, steps=50, steps_per_call=10)
    assert trainer._steps_to_next_stop(0) == 10
    trainer._step_seconds = 2.0
    assert trainer._steps_to_next_stop(0) == 2
    trainer._step_seconds = 20.0
    assert trainer._steps_to_next_stop(0) == 1


def test_the_best_checkpoint_is_made_and_kept(tmp_path):
    """Evaluated every 2 steps, best at 4, where no checkpoint was due."""
    losses = {2: 3.0, 4: 1.0, 6: 2.0, 8: 2.5, 9: 4.0}
    shared = {"log": MetricsLog(tmp_path / "m"), "writer": tf.summary.create_noop_writer(), "show": str}
    evaluate = Evaluate(every=2, evaluate=lambda: {"loss": losses[state.step]}, **shared)
    trainer, state = make_trainer(
        tmp_path, steps=9, save_every=3, callbacks=[evaluate], best=("loss", "min"), keep=2
    )
    trainer.run(state)
    names = [p.name for p in trainer.save.checkpointer.paths()]
    assert names == ["step_00000004", "step_00000006", "step_00000009"]
    assert json.loads((tmp_path / "checkpoints" / "best.json").read_text())["step"] == 4


class Show(Recorder):
    """A side show that notes what is on disk when it begins, and fails."""

    def __init__(self, every, folder, at=()):
        super().__init__(every, at=at)
        self.folder, self.saved = folder, []

    def __call__(self, state):
        super().__call__(state)
        self.saved.append(sorted(path.name for path in self.folder.glob("checkpoints/step_*")))
        raise MemoryError("no room for a sample\nat all")


def test_a_side_show_comes_after_the_checkpoint_and_costs_none(tmp_path, uninterrupted):
    notices = []
    show = Show(4, tmp_path, at=(0,))
    trainer, state = make_trainer(
        tmp_path, steps=12, log_every=5, save_every=8, keep=9, side_shows=[show], notify=notices.append
    )
    assert trainer.run(state) is None
    assert show.steps == [0, 4, 8, 12]
    names = ["step_00000008", "step_00000012"]
    assert show.saved == [[], [], names[:1], names], "the file is whole before the show begins"
    assert notices == [f"step {s}: show failed (no room for a sample); the run goes on" for s in show.steps]
    assert lines(tmp_path) == lines(uninterrupted[0])


def test_a_side_show_that_takes_the_process_along_is_not_met_again(tmp_path, uninterrupted):
    """As the system's killer would: the weights are on disk, and the run goes on behind the show."""

    class Killed(BaseException):
        pass

    def kill(step):
        raise Killed

    trainer, state = make_trainer(
        tmp_path, steps=12, log_every=5, save_every=5, side_shows=[Recorder(10, kill)]
    )
    with pytest.raises(Killed):
        trainer.run(state)
    assert trainer.save.checkpointer.paths()[-1].name == "step_00000010"
    late = Recorder(10)
    trainer, state = make_trainer(tmp_path, steps=12, log_every=5, save_every=5, side_shows=[late])
    assert trainer.run(state) is None
    assert late.steps == [12]
    assert lines(tmp_path) == lines(uninterrupted[0])


def test_a_stop_is_saved_before_the_side_shows(tmp_path):
    """A scheduler gives seconds; a sample may take more."""
    terminate = Recorder(3, lambda step: os.kill(os.getpid(), signal.SIGTERM))
    show = Show(3, tmp_path)
    trainer, state = make_trainer(tmp_path, steps=9, callbacks=[terminate], side_shows=[show], notify=str)
    assert trainer.run(state) == "SIGTERM"
    assert (show.steps, show.saved) == ([3], [["step_00000003"]])
    trainer, state = make_trainer(tmp_path, steps=9, side_shows=[Recorder(6, terminate.action)])
    assert trainer.run(state) == "SIGTERM", "asked for during a show"
    assert trainer.save.checkpointer.paths()[-1].name == "step_00000006"


@pytest.mark.parametrize(
    ("fails_at", "ends"), [((4,), True), ((6,), False), pytest.param((4, 6), False, marks=pytest.mark.slow)]
)
def test_a_last_save_that_fails_is_not_let_go(tmp_path, monkeypatch, fails_at, ends):
    real = Checkpointer._write

    def write(self, step, manifest):
        if step in fails_at:
            raise OSError(28, "No space left on device")
        real(self, step, manifest)

    monkeypatch.setattr(Checkpointer, "_write", write)
    notices = []
    trainer, state = make_trainer(tmp_path, steps=6, save_every=4)
    trainer.save.checkpointer.on_error = "continue"
    trainer.save.checkpointer.notify = notices.append
    if ends:
        assert trainer.run(state) is None
    else:
        with pytest.raises(CheckpointError) as caught:
            trainer.run(state)
        words = (
            "checkpoint of step 6 could not be written",
            "The last weights lie on no disk",
            "No space left",
        )
        assert all(word in str(caught.value) for word in words)
    assert [("Training goes on" in notice) for notice in notices] == [True] * (4 in fails_at)


def test_a_stop_whose_save_fails_is_not_let_go_either(tmp_path, monkeypatch):
    def full(self, step, manifest):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpointer, "_write", full)
    terminate = Recorder(3, lambda step: os.kill(os.getpid(), signal.SIGTERM))
    trainer, state = make_trainer(tmp_path, steps=6, callbacks=[terminate])
    trainer.save.checkpointer.on_error = "continue"
    with pytest.raises(CheckpointError, match=r"checkpoint of step 3 .*lie on no disk"):
        trainer.run(state)


def test_a_profile_is_written_of_the_steps_asked_for(tmp_path):
    profile = Profile(steps=(1, 3), folder=tmp_path / "tensorboard")
    trainer, state = make_trainer(tmp_path, steps=5, callbacks=[profile], steps_per_call=5)
    trainer.run(state)
    assert list((tmp_path / "tensorboard").rglob("*.xplane.pb"))


def test_a_huge_learning_rate_stops_the_run_naming_its_step(tmp_path):
    step = toy_step(optimizer="sgd", learning_rate=1e30, clip_norm=None)
    trainer, state = make_trainer(tmp_path, steps=12, train_step=step)
    with pytest.raises(TrainingError, match=r"step [23]: loss .*last good checkpoint is none yet"):
        trainer.run(state)


# The parts around the loop


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in (0, 5, 5, 10, 15):
        log.write({"step": step, "split": "train", "loss": float("nan") if step == 5 else 0.1})
    text = path.read_text()
    assert text.count('"loss": null') == 2
    MetricsLog(path, step=10)
    assert path.read_text() == "".join(text.splitlines(keepends=True)[:4])
    path.write_text(path.read_text() + '{"step": 10, "spl')
    MetricsLog(path, step=5).write({"step": 6, "split": "train"})
    assert [entry["step"] for entry in read_metrics(path)] == [0, 5, 5, 6]
    MetricsLog(path)
    assert path.read_text() == ""
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert list(read_metrics(tmp_path / "none.jsonl")) == []


def test_lines_that_cannot_be_written_wait(tmp_path, monkeypatch):
    notices = []
    log = MetricsLog(tmp_path / "metrics.jsonl", notify=notices.append)
    log.write({"step": 1, "split": "train"})
    with monkeypatch.context() as patch:
        patch.setattr(log, "path", tmp_path / "gone" / "metrics.jsonl")
        log.write({"step": 2, "split": "train"})
        log.write({"step": 3, "split": "train"})
    assert len(notices) == 1 and "No such file" in notices[0]
    log.write({"step": 4, "split": "train"})
    assert [entry["step"] for entry in read_metrics(log.path)] == [1, 2, 3, 4]


def test_a_line_cut_short_by_a_full_disk_is_taken_back(tmp_path):
    """A limit on the size of files stands for the disk; the line goes in whole once there is room."""
    notices = []
    log = MetricsLog(tmp_path / "metrics.jsonl", notify=notices.append)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log.write({"step": 1, "split": "train"})
    whole = log.path.read_bytes()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, limits[1]))
        log.write({"step": 2, "split": "train"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert log.path.read_bytes() == whole and len(notices) == 1
    log.write({"step": 3, "split": "train"})
    assert [entry["step"] for entry in read_metrics(log.path)] == [1, 2, 3]


def test_a_log_that_cannot_be_cut_back_stays(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path).write({"step": 1, "split": "train"})
    text = path.read_text()
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        MetricsLog(path, step=1)
    assert path.read_text() == text


def test_the_state_adds_up_and_comes_back():
    def row(loss, weight, norm, rate, skipped=0):
        return [loss, weight, 5, 8, 0, norm, rate, 0.01, 2.0, skipped, 0]

    state = TrainerState()
    state.add(np.array([row(6.0, 2.0, 0.5, 0.1), row(3.0, 1.0, 0.7, 0.2)], np.float32))
    state.add(np.array([row(1.0, 1.0, np.inf, 0.3, skipped=1)], np.float32))
    assert (state.step, state.tokens, state.loss_scale) == (3, 4.0, 2.0)
    assert state.learning_rate == pytest.approx(0.3)
    sums = {"loss_sum": 10.0, "weight_sum": 4.0, "grad_norm": 1.2, "steps": 3, "skipped": 1}
    tokens = {"real_tokens": 15, "positions": 24, "update_ratio": 0.03}
    assert state.window == pytest.approx({**sums, **tokens})
    state.spend("evaluate", 2.0)
    again = TrainerState(step=3, **json.loads(json.dumps(state.saved())))
    assert again == state


def test_samples_are_written(tmp_path):
    sample = Sample(
        every=None,
        sample=lambda: [("Once", " upon"), ("é", "\n")],
        folder=tmp_path / "samples",
        writer=tf.summary.create_noop_writer(),
    )
    sample(TrainerState(step=42))
    assert (tmp_path / "samples" / "step_00000042.txt").read_text(encoding="utf-8") == "Once│ upon\n\né│\n\n"


def test_the_display_writes_lines_where_no_one_watches():
    stream = io.StringIO()
    display = Display(total_steps=9, stream=stream)
    display.start(TrainerState())
    display.progress(TrainerState(step=1))
    display.entry({"step": 3, "split": "train", "loss": 1.23456789, "tokens": 5, "mfu": None})
    display.notice("a notice")
    display.stop()
    assert stream.getvalue() == "step 3/9 train: loss 1.2346\na notice\n"
