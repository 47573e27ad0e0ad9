"""Runs in their folders, whole: what a user sees of distribution, failures, averages and changed text."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from tfllm.training.callbacks import Save
from tfllm.training.checkpoint import Checkpointer, checkpoint_paths
from tfllm.training.metrics_log import TIMED, read_metrics


def lines(run):
    return [{k: v for k, v in line.items() if k not in TIMED} for line in read_metrics(run / "metrics.jsonl")]


def weights(run):
    """Every tensor of the last checkpoint, by name."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(checkpoint_paths(run / "checkpoints")[-1] / "variables"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.fixture(scope="module")
def train():
    """Trains in this process -> exit status, standard error."""

    def run(config_file, run_dir, *words):
        from tfllm.commands.main import main

        return main(["train", str(config_file), "--run-dir", str(run_dir), *words])

    return run


@pytest.fixture(scope="module")
def whole(train, config_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train(config_file, folder) == 0
    return folder


def assert_same_run(one, other, tolerance):
    assert len(lines(one)) == len(lines(other)) > 2
    for a, b in zip(lines(one), lines(other), strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"split"}:
            assert a[name] == pytest.approx(b[name], rel=tolerance), (a["step"], name)
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], atol=tolerance, err_msg=name)


@pytest.mark.slow
def test_two_devices_train_and_evaluate_as_one(train, whole, config_file, tmp_path):
    words = ["distribution.type=mirrored", "distribution.num_devices=2", "training.microbatch_size=1"]
    assert train(config_file, tmp_path / "run", *words) == 0
    assert_same_run(whole, tmp_path / "run", 1e-5)


@pytest.mark.slow
def test_a_run_goes_on_on_other_devices(train, whole, config_file, tmp_path):
    """Two devices up to step 3, one from there."""
    mirrored = ["distribution.type=mirrored", "distribution.num_devices=2"]
    # Stopped as a scheduler would stop it, so that the schedule's length stays.
    original = Save.__call__

    def save_and_terminate(self, state):
        original(self, state)
        if state.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    Save.__call__ = save_and_terminate
    try:
        assert train(config_file, tmp_path / "run", *mirrored) == 143
    finally:
        Save.__call__ = original
    assert [p.name for p in checkpoint_paths(tmp_path / "run" / "checkpoints")] == ["step_00000003"]
    assert train(config_file, tmp_path / "run") == 0
    assert_same_run(whole, tmp_path / "run", 1e-5)


@pytest.mark.slow
def test_a_checkpoint_says_what_it_was_made_of(whole):
    manifest = json.loads((checkpoint_paths(whole / "checkpoints")[-1] / "manifest.json").read_text())
    about = manifest["about"]
    assert about["config"]["seed"] == 0
    assert {"tfllm", "tensorflow", "keras", "python"} == about["versions"].keys()
    assert about["data"]["train"] and about["data"]["validation"]


@pytest.mark.slow
def test_other_text_under_a_run_is_refused(train, config_file, tmp_path, capfd):
    config = yaml.safe_load(config_file.read_text())
    text = tmp_path / "text.txt"
    text.write_bytes(Path(config["data"]["train"]["path"]).read_bytes())
    config["data"]["train"]["path"] = str(text)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    assert train(path, tmp_path / "run") == 0
    text.write_text(text.read_text().replace("a", "o"))
    capfd.readouterr()
    assert train(path, tmp_path / "run", "training.steps=8", "optimizer.schedule.warmup_steps=0") == 1
    assert "the train rows have changed since" in capfd.readouterr().err


@pytest.mark.slow
def test_the_average_is_evaluated_kept_and_loaded(train, whole, config_file, tmp_path):
    import tfllm as package

    assert train(config_file, tmp_path / "run", "optimizer.ema_decay=0.9") == 0
    tensors = weights(tmp_path / "run")
    averaged = {
        n.removeprefix("optimizer/ema/"): v for n, v in tensors.items() if n.startswith("optimizer/ema/")
    }
    plain = {n.removeprefix("model/"): v for n, v in tensors.items() if n.startswith("model/")}
    assert averaged.keys() == plain.keys()
    lm = package.load(tmp_path / "run")
    for variable in lm.model.variables:
        np.testing.assert_array_equal(variable.numpy(), averaged[variable.path])
        np.testing.assert_array_equal(weights(whole)[f"model/{variable.path}"], plain[variable.path])
    train_losses = [[e["loss"] for e in lines(r) if e["split"] == "train"] for r in (whole, tmp_path / "run")]
    assert train_losses[0] == train_losses[1]
    last = [lines(r)[-1]["loss"] for r in (whole, tmp_path / "run")]
    assert last[0] != last[1]


def test_a_failed_step_is_kept_and_can_be_replayed(train, config_file, tmp_path, capfd):
    words = ["optimizer.type=sgd", "optimizer.learning_rate=1e30", "optimizer.clip_norm=null"]
    assert train(config_file, tmp_path / "run", *words) == 1
    error = capfd.readouterr().err
    assert "not finite, so the run stops" in error and "the same command with --replay" in error
    assert train(config_file, tmp_path / "run", *words, "--replay") == 0
    out = capfd.readouterr().out
    assert "the first number that is not finite comes from" in out
    assert "tfllm/layers/" in out
    assert train(config_file, tmp_path / "other", *words, "--replay") == 1
    assert "holds no failed step" in capfd.readouterr().err


def test_a_dry_run_measures_and_keeps_nothing(train, config_file, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from tfllm.commands.main import main

    assert main(["train", str(config_file), "--dry-run"]) == 0
    out = capfd.readouterr().out
    for word in ("parameters", "checkpoint", "peak memory", "first step", "whole run"):
        assert word in out
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_the_devices_cannot_share_is_refused(train, config_file, tmp_path, capfd):
    words = ["distribution.type=mirrored", "distribution.num_devices=2", "training.global_batch_size=5"]
    assert train(config_file, tmp_path / "run", *words) == 2
    assert (
        "training.global_batch_size=5 must be divisible by distribution.num_devices=2"
        in capfd.readouterr().err
    )
    words = ["distribution.type=mirrored", "distribution.num_devices=64", "training.global_batch_size=64"]
    assert train(config_file, tmp_path / "run", *words) == 1
    assert "distribution.num_devices=64" in capfd.readouterr().err


@pytest.mark.slow
def test_a_full_disk_stops_the_run_or_not(train, config_file, tmp_path, monkeypatch, capfd):
    def full(self, step, manifest):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpointer, "_write", full)
    assert train(config_file, tmp_path / "stops") == 1
    assert "No space left on device" in capfd.readouterr().err
    assert train(config_file, tmp_path / "goes_on", "training.on_save_error=continue") == 1
    out, err = capfd.readouterr()
    assert "checkpoint of step 3 could not be written" in err and "Training goes on" in err
    assert "checkpoint of step 6 could not be written" in err and "The last weights lie on no disk" in err
    assert "trained" not in out
    assert lines(tmp_path / "goes_on")[-1]["step"] == 6


def test_what_would_fail_late_is_refused_before_anything_is_written(train, config_file, tmp_path, capfd):
    words = [
        f"generation.prompts=[{'a' * 40}]",
        "generation.stop_tokens=['<|im_end|>']",
        "training.best_metric=eval_loss",
    ]
    for last in ([], ["--dry-run"]):
        assert train(config_file, tmp_path / "run", *words, *last) == 2
        err = capfd.readouterr().err
        assert "3 problems" in err
        for path in (
            "generation.prompts[0]=",
            "generation.stop_tokens[0]=",
            "training.best_metric=eval_loss",
        ):
            assert path in err
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_that_goes_on_is_looked_at_too(train, whole, config_file, tmp_path, capfd):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert train(config_file, folder, "training.steps=8", f"generation.prompts=[{'a' * 40}]") == 2
    assert "generation.prompts[0]=" in capfd.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_best_metric_needs_no_mode(train, config_file, tmp_path, capfd):
    words = ["training.best_metric=loss", "training.evaluate_every=2"]
    assert train(config_file, tmp_path / "run", *words) == 0
    best = json.loads((tmp_path / "run" / "checkpoints" / "best.json").read_text())
    assert (best["metric"], best["mode"]) == ("loss", "min")
    assert train(config_file, tmp_path / "run", *words, "training.best_mode=max") == 2
    assert "training.best_mode=max contradicts training.best_metric=loss" in capfd.readouterr().err


def test_side_shows_that_fail_cost_a_notice(train, whole, config_file, tmp_path, capfd, monkeypatch):
    from tfllm.generation.generate import Generator
    from tfllm.training.callbacks import Histograms

    def fail(self, *arguments, **keywords):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Generator, "__call__", fail)
    monkeypatch.setattr(Histograms, "__call__", fail)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "tensorboard").write_text("in the way")
    assert train(config_file, folder, "training.histogram_every=3") == 0
    err = capfd.readouterr().err
    for words in (
        "step 6: sample failed (out of memory); the run goes on",
        "step 3: histograms failed (out of memory)",
        "tensorboard cannot be written any more (Not a directory)",
    ):
        assert err.count(words) == 1
    assert lines(folder) == lines(whole)
    assert [p.name for p in checkpoint_paths(folder / "checkpoints")] == ["step_00000003", "step_00000006"]


@pytest.mark.slow
def test_a_run_folder_is_for_one_process(train, config_file, tmp_path, capfd):
    from tfllm.experiment.run_lock import locked_run

    with locked_run(tmp_path / "run"):
        assert train(config_file, tmp_path / "run") == 1
        err = capfd.readouterr().err
        assert f"{tmp_path / 'run'} is being trained by process {os.getpid()} on " in err
        assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]
    assert train(config_file, tmp_path / "run") == 0
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.slow
def test_a_training_outlives_its_terminal(whole, config_file, tmp_path):
    """Nobody reads standard error after its first line, standard output is closed; the run ends as it should."""
    command = [sys.executable, "-m", "tfllm.commands.main", "train", str(config_file), "--run-dir", "run"]
    quoted = " ".join(map(shlex.quote, command))
    script = f"{{ {quoted} >&-; echo $? > status; }} 2>&1 | head -n 1"
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "status").read_text() == "0\n"
    assert lines(tmp_path / "run") == lines(whole)
    assert [p.name for p in checkpoint_paths(tmp_path / "run" / "checkpoints")][-1] == "step_00000006"


@pytest.mark.slow
def test_a_training_under_python_oo(whole, config_file, tmp_path):
    command = [sys.executable, "-OO", "-m", "tfllm.commands.main", "train", str(config_file)]
    done = subprocess.run([*command, "--run-dir", "run"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "trained: run\n"), done.stderr
    assert lines(tmp_path / "run") == lines(whole)
