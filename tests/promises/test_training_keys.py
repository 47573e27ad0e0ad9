"""The keys of training, export, distribution and the top level: whole trainings, stopped and gone on with."""

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.promises.case import Case, hold
from tfllm.commands.main import main
from tfllm.training.checkpoint import Checkpointer
from tfllm.training.stop_request import StopRequest

BASE: dict = {}
# A run that writes all there is to write; it stops after step 3 and goes on.
WRITES = {
    "training.steps": 5,
    "training.log_every": 1,
    "training.evaluate_every": 2,
    "training.sample_every": 2,
    "training.checkpoint_every": 2,
    "training.keep_checkpoints": 1,
    "training.histogram_every": 2,
    "training.profile": [2, 3],
    "training.microbatch_size": 2,
    "generation.prompts": ["ban"],
    "export.at_end": True,
    "export.max_new_tokens": 6,
}
_FEWER = (
    "training.sample_every",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "export.max_new_tokens",
)
WRITES_LESS = {k: v for k, v in WRITES.items() if k not in _FEWER}
ROTATES = {**WRITES_LESS, "training.checkpoint_every": 2, "training.profile": None}
# A run that computes in other ways what the base run computes.
COMPUTES = {
    "training.loss_chunk_tokens": 8,
    "training.attention_block_size": 4,
    "training.remat": "block",
    "training.steps_per_call": 2,
    "training.jit_compile": True,  # together: XLA takes not every way of saving memory
}
MIRRORED = {"distribution.type": "mirrored", "distribution.num_devices": 2}
EVALUATES = {"training.evaluate_every": 2, "training.keep_checkpoints": 1}

# Each of these takes a whole training of its own, or several, or one that XLA compiles.
SLOW = {"export.max_new_tokens"} | {
    f"training.{name}"
    for name in (
        *("checkpoint_every", "keep_checkpoints", "profile", "sample_every", "best_metric"),
        *("preemption_notice", "on_save_error", "loss_chunk_tokens"),
        *("attention_block_size", "remat", "jit_compile", "steps_per_call"),
    )
}


def keys_of(cases):
    """The keys of cases; those that take long are for the slow tests."""
    return [pytest.param(key, marks=pytest.mark.slow) if key in SLOW else key for key in cases]


def ends_at(step):
    def shows(run):
        assert run.lines("train")[-1]["step"] == run.checkpoints[-1] == step

    return shows


def logs(split, *steps):
    def shows(run):
        assert [line["step"] for line in run.lines(split)] == list(steps)

    return shows


def has(pattern):
    def shows(run):
        assert list(run.folder.glob(pattern))

    return shows


def projects(tokens):
    """So many tokens have their logits at once in a training step, and no more in any but the model's own call."""

    def shows(run):
        assert tokens in run.tokens_projected

    return shows


def _histograms(run):
    steps = [at for tag, at in run.events.items() if tag.startswith("weights/decoder/")]
    assert steps and all(at >= {2, 4} for at in steps)


def _prompts(run):
    samples = list(run.folder.glob("samples/*.txt"))
    assert samples and samples[0].read_text(encoding="utf-8").startswith("ban│")


def _export_limit(run):
    exported = tf.saved_model.load(str(next(iter((run.folder / "export").iterdir()))))
    request = {"prompt": "ban", "max_new_tokens": 12, "temperature": 0.0, "top_k": 0, "top_p": 1.0}
    request |= {"repetition_penalty": 1.0, "seed": 0}
    answer = exported.signatures["generate"](
        **{name: tf.constant([value]) for name, value in request.items()}
    )
    assert answer["num_tokens"].numpy().tolist() == [6]


def _checkpoints(*steps):
    def shows(run):
        assert run.checkpoints == list(steps)

    return shows


WRITTEN = {
    "training.steps": Case(ends_at(5), WRITES, BASE),
    "training.log_every": Case(logs("train", 1, 2, 3, 4, 5), WRITES, BASE),
    "training.evaluate_every": Case(logs("validation", 0, 2, 4, 5), WRITES, BASE),
    "training.sample_every": Case(has("samples/step_00000002.txt"), WRITES, WRITES_LESS),
    "training.checkpoint_every": Case(_checkpoints(3, 4, 5), ROTATES, WRITES_LESS),
    "training.keep_checkpoints": Case(_checkpoints(5), WRITES, ROTATES),
    "training.histogram_every": Case(_histograms, WRITES, BASE),
    "training.profile": Case(has("tensorboard/plugins/profile/*/*.xplane.pb"), WRITES, ROTATES),
    "training.microbatch_size": Case(projects(32), WRITES, BASE),
    "generation.prompts": Case(_prompts, WRITES, BASE),
    "export.at_end": Case(has("export/*/saved_model.pb"), WRITES, BASE),
    "export.max_new_tokens": Case(_export_limit, WRITES, WRITES_LESS),
}


@pytest.mark.parametrize("key", keys_of(WRITTEN))
def test_what_is_written(key, runs):
    hold(WRITTEN[key], functools.partial(runs, stop_at=3))


def test_a_run_that_stopped_went_on(runs):
    assert runs(WRITES, stop_at=3).statuses == [143, 0]


def _compiled(run):
    assert run.statuses == [0]
    assert run.compiled > 0


def _recomputed(run):
    assert run.fed_forward > 2  # more than the training step's own and the evaluation's


def _attention_blocks(run):
    assert run.attention_blocks == {4}


def _looks(run):
    assert run.looks[0] == 2


def _larger_batch(run):
    assert run.lines("train")[-1]["tokens"] > 1.5 * 6 * 4 * 16


COMPUTED = {
    "training.loss_chunk_tokens": Case(projects(8), COMPUTES, BASE),
    "training.attention_block_size": Case(_attention_blocks, COMPUTES, BASE),
    "training.remat": Case(_recomputed, COMPUTES, BASE),
    "training.jit_compile": Case(_compiled, COMPUTES, BASE),
    "training.steps_per_call": Case(_looks, COMPUTES, BASE),
    "training.global_batch_size": Case(_larger_batch, {"training.global_batch_size": 8}, BASE),
    "distribution:mirrored": Case(projects(32), MIRRORED, BASE),
    "distribution:mirrored.num_devices": Case(projects(32), MIRRORED, {"distribution.type": "mirrored"}),
}


@pytest.mark.parametrize("key", keys_of(COMPUTED))
def test_how_it_is_computed(key, runs):
    hold(COMPUTED[key], runs)


@pytest.mark.parametrize(
    "values",
    [pytest.param(COMPUTES, marks=pytest.mark.slow), MIRRORED],
    ids=["in parts, by XLA", "mirrored"],
)
def test_the_numbers_are_those_of_the_base_run(values, runs):
    for name in ("loss", "grad_norm", "update_ratio"):
        numbers = [run.lines("train")[-1][name] for run in (runs(values), runs(BASE))]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-3)


def _other_weights(pair):
    ours, base = (run.weights["model/decoder/token_embedding/embeddings"] for run in pair)
    assert np.abs(ours - base).max() > 1e-2


def _rounded(pair):
    """bfloat16 has 8 bits: no sum is the same, and none is far away."""
    ours, base = (run.lines("train")[-1]["loss"] for run in pair)
    assert 1e-7 < abs(ours - base) / base < 0.02


BESIDE_BASE = {
    "seed": Case(_other_weights, {"seed": 5}, BASE),
    "training.precision": Case(_rounded, {"training.precision": "mixed_bfloat16"}, BASE),
}


@pytest.mark.parametrize("key", BESIDE_BASE)
def test_what_differs_from_the_base_run(key, runs):
    hold(BESIDE_BASE[key], lambda values: (runs(values), runs(BASE)))


def _losses(run):
    return {line["step"]: line["loss"] for line in run.lines("validation") if line["step"]}


def _keeps_the_best(run):
    losses = _losses(run)
    record = run.folder / "checkpoints" / "best.json"
    assert record.exists()
    best = json.loads(record.read_text())["step"]
    assert best == min(losses, key=losses.__getitem__)
    assert best in run.checkpoints


def _keeps_the_largest(run):
    if run.statuses == [2]:  # a loss is best where it is least: said before anything is done
        assert "training.best_mode" in run.words
        return
    losses = _losses(run)
    assert [step for step in run.checkpoints if step != 6] == [max(losses, key=losses.__getitem__)]


BEST = {**EVALUATES, "training.best_metric": "loss"}
# Nothing is learned, so no evaluation is better than the first, which is that after two steps.
STANDS = {**BEST, "optimizer.learning_rate": 1e-12}


def _ends_where_nothing_gets_better(run):
    assert run.statuses == [0]
    ends_at(4)(run)
    assert "ended at step 4 of 6: loss has not got better than" in run.words


def _passes(run):
    """A fifth of the rows, evaluated at the end of what is less than a pass."""
    line = run.lines("train")[-1]
    rows = re.findall(r"0\.2 epochs of (\d+) rows", run.words)
    assert rows and line["step"] == -(-int(rows[0]) // 20) != 6
    assert run.lines("validation")[-1]["step"] == line["step"]


KEPT = {
    "training.early_stopping": Case(
        _ends_where_nothing_gets_better, {**STANDS, "training.early_stopping": 1}, STANDS
    ),
    "training.epochs": Case(_passes, {"training.epochs": 0.2}, BASE),
    "training.best_metric": Case(_keeps_the_best, BEST, EVALUATES),
    "training.best_mode": Case(_keeps_the_largest, {**BEST, "training.best_mode": "max"}, BEST),
}


@pytest.mark.parametrize("key", keys_of(KEPT))
def test_what_is_kept(key, runs):
    hold(KEPT[key], runs)


def _goes_on(run):
    assert run.statuses == [0]
    assert run.checkpoints == [6]


def _first_save_fails(monkeypatch):
    write, failed = Checkpointer._write, []

    def full(self, step, manifest):
        if step == 3:
            failed.append(step)
            raise OSError(28, "No space left on device")
        return write(self, step, manifest)

    monkeypatch.setattr(Checkpointer, "_write", full)


def _google_announces_the_end(monkeypatch, server):
    defaults = {**StopRequest.__init__.__kwdefaults__, "server": server}
    monkeypatch.setattr(StopRequest.__init__, "__kwdefaults__", defaults)


@pytest.fixture(scope="module")
def metadata_server():
    """A metadata server that says the machine is being taken away."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = b"TRUE" if "preempted" in self.path else b"NONE"
            self.send_response(200)
            self.send_header("ETag", "1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def _heard(run):
    assert run.statuses == [143]
    assert "preemption by Google Cloud" in run.words


HAPPENS = {
    "training.on_save_error": Case(
        _goes_on,
        {"training.on_save_error": "continue", "training.checkpoint_every": 3},
        {"training.checkpoint_every": 3},
    ),
    "training.preemption_notice": Case(
        _heard, {"training.preemption_notice": "gce", "training.log_every": 2}, {"training.log_every": 2}
    ),
}


@pytest.mark.parametrize("key", keys_of(HAPPENS))
def test_what_happens_when(key, runs, metadata_server):
    def patch(monkeypatch):
        if key == "training.on_save_error":
            _first_save_fails(monkeypatch)
        else:
            _google_announces_the_end(monkeypatch, metadata_server)

    hold(HAPPENS[key], functools.partial(runs, patch=patch))


def _named(words):
    def shows(made):
        assert words in made

    return shows


TWO = {"distribution.type": "multi_worker", "distribution.workers": ["a:1", "b:2"], "distribution.index": 1}
FOUND = {
    "distribution:multi_worker": Case(_named("worker 1 could not start at b:2"), TWO, BASE),
    "distribution:multi_worker.workers": Case(
        _named("worker 1 could not start at b:2"), TWO, {"distribution.type": "multi_worker"}
    ),
    "distribution:multi_worker.index": Case(
        _named("worker 1 could not start at b:2"), TWO, {**TWO, "distribution.index": 0}
    ),
    "distribution:tpu": Case(_named("no TPU could be started"), {"distribution.type": "tpu"}, BASE),
    "distribution:tpu.tpu": Case(
        _named("distribution.tpu='pod-7'"),
        {"distribution.type": "tpu", "distribution.tpu": "pod-7"},
        {"distribution.type": "tpu"},
    ),
    "name": Case(
        _named("trained: runs/other"), {"name": "other", "training.steps": 1}, {"training.steps": 1}
    ),
}


@pytest.mark.parametrize("key", FOUND)
def test_what_is_found_and_named(key, runs, monkeypatch, tmp_path, capfd):
    """Other machines are not there: what is asked of TensorFlow is what the config says."""

    def absent(*arguments, **options):
        raise ValueError("not there")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        tf.distribute, "MultiWorkerMirroredStrategy", _refusing(tf.distribute.MultiWorkerMirroredStrategy)
    )
    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", absent)

    def made(values):
        overrides = [f"{key}={json.dumps(value)}" for key, value in {"training.steps": 1, **values}.items()]
        capfd.readouterr()
        main(["train", str(runs.config()), *overrides])
        return "".join(capfd.readouterr())

    hold(FOUND[key], made)


def _refusing(strategy):
    class Refusing(strategy):
        def __init__(self, *arguments, **options):
            raise RuntimeError("not there")

    return Refusing


DETERMINISTIC = """
import json, sys
from tfllm.commands.main import main
from tfllm.training.checkpoint import checkpoint_paths
from tfllm.training.metrics_log import TIMED, read_metrics
import tensorflow as tf

commands = sys.argv.pop(1).split()
statuses = [main(["train", *sys.argv[2:], "--run-dir", sys.argv[1]])]
try:
    tf.timestamp()
    told = "time"
except tf.errors.OpError:
    told = "determinism"
    for command in commands:
        statuses.append(main([command, sys.argv[1], *(["ban"] if command == "generate" else [])]))
lines = [{k: v for k, v in line.items() if k not in TIMED} for line in read_metrics(sys.argv[1] + "/metrics.jsonl")]
waits = [line["input_wait"] for line in read_metrics(sys.argv[1] + "/metrics.jsonl") if line["split"] == "train"]
print(json.dumps({"statuses": statuses, "told": told, "lines": lines, "waits": waits}))
"""


def deterministic_run(config, folder, *words, commands=""):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", DETERMINISTIC, commands, str(folder), str(config), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _deterministic(made):
    assert made["statuses"] == [0, 0, 0, 0]
    assert made["told"] == "determinism"
    assert all(0 <= wait < 1 for wait in made["waits"])


SAME_DIGITS = {
    "training.deterministic": Case(
        _deterministic, {"training.deterministic": True}, {"training.deterministic": False}
    )
}


@pytest.mark.slow
@pytest.mark.parametrize("key", SAME_DIGITS)
def test_determinism_is_on(key, runs, tmp_path):
    """In processes of their own: TensorFlow cannot turn it off again."""

    def made(values):
        words = [f"{name}={json.dumps(value)}" for name, value in values.items()]
        folder, commands = tmp_path / "-".join(words), "evaluate generate export"
        return deterministic_run(runs.config(), folder, *words, "model.dropout=0.1", commands=commands)

    hold(SAME_DIGITS[key], made)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        [
            "training.jit_compile=true",
            "training.profile=[2,3]",
            "training.histogram_every=2",
            "generation.prompts=[ban]",
        ],
        ["distribution.type=mirrored", "distribution.num_devices=2"],
    ],
    ids=["XLA, everything written", "mirrored"],
)
def test_two_deterministic_runs_have_the_same_digits(words, runs, tmp_path):
    """The second of two is stopped at a shorter end on one device, and gone on with."""
    words = [*words, "training.deterministic=true", "model.dropout=0.1", "training.log_every=1"]
    whole = deterministic_run(runs.config(), tmp_path / "a", *words)["lines"]
    at_its_end = []  # what only the shorter one says
    if "distribution.type=mirrored" not in words:
        deterministic_run(runs.config(), tmp_path / "b", *words, "training.steps=3")
        at_its_end = [{"step": 3, "split": "validation"}]
    other = deterministic_run(runs.config(), tmp_path / "b", *words)["lines"]
    assert [line for line in other if not any(end.items() <= line.items() for end in at_its_end)] == whole


CASES = {**WRITTEN, **COMPUTED, **BESIDE_BASE, **KEPT, **HAPPENS, **FOUND, **SAME_DIGITS}
