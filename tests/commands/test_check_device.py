"""The check of a machine's accelerators: logical CPU devices stand in for them, and fakes for processes that fail."""

import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from scripts import ROOT
from scripts.benchmarks.worker import Worker, WorkerEnded, WorkerLate
from scripts.checks import device as check_device
from scripts.checks.device_sections import Bench, section_report

ABOUT = {"kind": "GPU", "name": "NVIDIA H100", "physical": 1, "logical": 2, "tensorflow": "2.21.0"}
TRAINED = {
    "parameters": 124_000_000,
    "start_seconds": 9.0,
    "first_loss": 10.9,
    "loss": 10.1,
    "seconds": 2.0,
    "device_gb": 4.0,
    "peak_gb": 1.0,
    "flops_per_token": 1e9,
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    shape = {"vocab": 300, "layers": 1, "width": 16, "heads": 2, "seq_len": 48, "new_tokens": 16}
    settings = {"folder": str(tmp_path_factory.mktemp("device")), "shape": shape, "steps": 3}
    yield Bench({**settings, "jit_compile": False})
    tf.config.experimental.enable_tensor_float_32_execution(True)


@pytest.mark.parametrize(
    ("section", "title"),
    [
        ("float32", "float32"),
        ("mixed_float16", "mixed_float16"),
        ("mirrored", "mirrored over 2 CPUs (parts of 1)"),
    ],
)
@pytest.mark.slow
def test_losses_are_held_to_those_of_the_plain_run(bench, section, title):
    first, *_ = section_report(bench, section)["rows"]
    assert (first["title"], first["good"]) == (title, True)
    start, end = (float(number) for number in first["words"].split("loss ")[1].split(";")[0].split(" -> "))
    assert 5 < start < 6 and end < start  # ln 259 is 5.56


@pytest.mark.slow
def test_losses_that_differ_by_more_than_the_limit_fail(bench):
    row = bench._beside("changed", bench._float32, lambda: _scaled(bench, 1.001), 1e-4, "float32's")
    assert row["good"] is False and "1.0e-03 at most, limit 0.0001" in row["words"]
    assert bench._beside("same", bench._float32, bench._float32, 1e-4, "float32's")["good"]


@pytest.mark.slow
def test_losses_that_are_not_finite_fail(bench):
    row = bench._beside("broken", bench._float32, lambda: _scaled(bench, float("nan")), 1e-4, "float32's")
    assert row["good"] is False and "nan" in row["words"]


def _scaled(bench, factor):
    """A run like the plain one, whose losses are another multiple."""
    import json

    folder = bench.folder / f"scaled_{factor}"
    folder.mkdir()
    lines = (bench._float32() / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({**entry, "loss": entry["loss"] * factor}) + "\n" for entry in entries)
    )
    return folder


@pytest.mark.slow
def test_decoding_gives_the_same_ids_with_xla_and_without(bench):
    (row,) = section_report(bench, "decode")["rows"]
    assert row["good"] is True
    assert "XLA" in row["words"] and "without" in row["words"] and "ids equal" in row["words"]


@pytest.mark.slow
def test_the_export_is_reloaded_and_answers_as_the_live_model(bench):
    (row,) = section_report(bench, "export")["rows"]
    assert row["good"] is True and row["words"].startswith("4 of 4 answers equal")


def test_what_a_cpu_has_not_is_not_measured(bench):
    (row,) = section_report(bench, "tf32")["rows"]
    assert row["good"] is None and "not measured" in row["words"]


def test_a_section_that_raises_is_one_line(bench, monkeypatch):
    def decode():
        raise tf.errors.InternalError(None, None, "no kernel\nTrace:\n  …")

    monkeypatch.setattr(bench, "decode", decode)
    assert section_report(bench, "decode") == {"error": "InternalError: no kernel"}


class FakeWorker:
    """Answers from a script: by section, rows or what to raise."""

    started: list = []
    answers: dict = {}

    def __init__(self, python, module, settings, *, threads, log, timeout):
        FakeWorker.started.append({**settings, "python": python, "timeout": timeout})
        self.sections = iter(settings.get("sections", [module.split("_")[-1]]))
        self.report = ABOUT if "sections" in settings else dict(TRAINED)

    def measure(self):
        answer = FakeWorker.answers[next(self.sections)]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self):
        pass


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the check with fake processes -> exit status, lines by their first words, what was started."""
    FakeWorker.started = []
    rates = {"float32": 1e15, "mixed_bfloat16": 2e15}
    FakeWorker.answers = {
        name: {"rows": [{"title": name, "words": "fine", "good": True}]} for name in check_device.SHARES
    } | {"product": {"rows": [{"title": "rate", "words": "", "good": None, "rates": rates}]}}
    FakeWorker.answers |= {"tensorflow": {}, "torch": {"seconds": 4.0, "device_gb": 8.0}}
    monkeypatch.setattr(check_device, "Worker", FakeWorker)

    def call(*arguments, **answers):
        FakeWorker.answers.update(answers)
        status = check_device.main(["--peers", "python-with-torch", *arguments])
        return status, capsys.readouterr().out.splitlines(), FakeWorker.started

    return call


def line(lines, title):
    return next(each for each in lines if each.startswith(f"{title} "))


def test_the_table_holds_every_section_and_the_status_is_0(run):
    status, lines, started = run()
    assert status == 0 and lines[-1] == "all that was measured holds"
    assert "1 x NVIDIA H100, 2 logical" in line(lines, "device")
    titles = [name for name in check_device.SHARES if name != "product"]
    assert all(" holds " in line(lines, name) for name in [*titles, *check_device.TRAININGS])
    assert [each.get("precision") for each in started] == [
        None, "mixed_bfloat16", "mixed_bfloat16", "float32", "float32"
    ]  # fmt: skip
    assert {each["python"] for each in started} == {sys.executable, "python-with-torch"}


def test_trainings_are_compared(run):
    _, lines, started = run("--only", "product", "tfllm_float32", "torch_float32")
    tokens = 20 * started[1]["batch"] * started[1]["seq_len"]
    ours, theirs = line(lines, "tfllm_float32"), line(lines, "torch_float32")
    assert f"124.0M: {tokens / 2:,.0f} tokens/s, MFU {tokens / 2 * 1e9 / 1e15:.1%}, peak 4.00 GB" in ours
    assert f"{tokens / 4:,.0f} tokens/s" in theirs and "tfllm's speed 2.00, memory 0.50" in theirs


def test_a_section_that_fails_leaves_the_others_and_the_status_is_1(run):
    status, lines, started = run(mirrored={"error": "InternalError: no NCCL"})
    assert status == 1
    assert "FAILED" in line(lines, "mirrored") and "InternalError: no NCCL" in line(lines, "mirrored")
    assert " holds " in line(lines, "decode") and " holds " in line(lines, "torch_float32")
    assert "FAILED: mirrored" in lines and len(started) == 5
    Path(lines[-1].rpartition(" ")[2]).unlink()  # the log stays where something failed


def test_a_process_that_dies_is_started_again_for_what_is_left(run):
    status, lines, started = run(mixed_float16=WorkerEnded("a worker ended with status -6"))
    assert status == 1 and "status -6" in line(lines, "mixed_float16")
    assert started[1]["sections"] == ["mirrored", "decode", "export", "deterministic"]
    assert " holds " in line(lines, "deterministic")
    Path(lines[-1].rpartition(" ")[2]).unlink()


def test_what_does_not_end_in_its_share_is_called_not_measured(run):
    status, lines, started = run(decode=WorkerLate())
    assert status == 3 and "not measured" in line(lines, "decode")
    assert started[1]["sections"] == ["export", "deterministic"] and " holds " in line(lines, "export")
    assert any(each.startswith("NOT MEASURED for want of time: decode") for each in lines)
    Path(lines[-1].rpartition(" ")[2]).unlink()  # it says where the late process was


def test_a_loss_that_does_not_fall_fails(run):
    status, lines, _ = run("--only", "tfllm_float32", tensorflow={"loss": float("nan")})
    assert status == 1 and "FAILED" in line(lines, "tfllm_float32")
    Path(lines[-1].rpartition(" ")[2]).unlink()


def test_without_time_nothing_is_cut_in_silence(run):
    status, lines, started = run("--seconds", "0")
    assert status == 3 and not started
    names = [*check_device.SHARES, *check_device.TRAININGS]
    assert all("not measured" in line(lines, name) for name in names)
    Path(lines[-1].rpartition(" ")[2]).unlink()


def test_no_section_may_take_all_of_the_time(run):
    _, _, started = run("--seconds", "100", mixed_float16=WorkerLate(), export=WorkerLate())
    assert all(0 < each["timeout"] <= 100 for each in started)
    assert started[0]["timeout"] == pytest.approx(40, abs=1)  # what hangs leaves the others most of it


def test_a_cpu_trains_in_float32_only(run, monkeypatch):
    monkeypatch.setitem(ABOUT, "kind", "CPU")
    status, lines, _ = run("--only", "product", "tfllm_mixed_bfloat16", "tfllm_float32")
    assert status == 0 and "not measured" in line(lines, "tfllm_mixed_bfloat16")
    assert "peak 4.00 GB" in line(lines, "tfllm_float32")


def test_without_pytorch_ours_is_measured_alone(run, monkeypatch):
    monkeypatch.setattr(check_device, "_with_torch", lambda: None)
    status = check_device.main(["--only", "tfllm_float32", "torch_float32"])
    assert status == 0 and len(FakeWorker.started) == 1


@pytest.mark.parametrize(
    ("program", "error"), [("import time; time.sleep(60)", WorkerLate), ("exit(7)", WorkerEnded)]
)
def test_a_worker_is_waited_for_no_longer_than_it_may_take(tmp_path, monkeypatch, program, error):
    (tmp_path / "a_worker.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(error):
        Worker(sys.executable, "a_worker", {}, threads=1, timeout=2 if error is WorkerLate else 60)


def test_a_late_worker_says_where_it_was(tmp_path, monkeypatch):
    (tmp_path / "a_worker.py").write_text(
        "import sys, time\nfrom scripts.benchmarks.worker import serve\n"
        "def compile_for_minutes(settings):\n    time.sleep(60)\nserve(compile_for_minutes, sys.argv[1:])"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    with (tmp_path / "log").open("wb") as log, pytest.raises(WorkerLate):
        Worker(sys.executable, "a_worker", {}, threads=1, log=log, timeout=3)
    assert "compile_for_minutes" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_the_script_says_what_failed_in_a_process_of_its_own():
    command = [sys.executable, "-m", "scripts.checks.device", "--peers", sys.executable, "--seconds", "500"]
    command += ["--only", "product", "torch_float32"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 x CPU, 2 logical; TensorFlow 2." in line(lines, "device")
    assert "float32 0." in line(lines, "peak rate, TFLOP/s")
    torch = line(lines, "torch_float32")
    assert "FAILED" in torch and "No module named 'torch'" in torch
    Path(lines[-1].rpartition(" ")[2]).unlink()


@pytest.mark.slow
def test_all_of_it_holds_here():
    command = [sys.executable, "-m", "scripts.checks.device", "--tiny", "--no-xla", "--seconds", "1200"]
    command += ["--only", "product", "mirrored", "deterministic", "tfllm_float32"]  # the others ran above
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert " holds " in line(lines, "mirrored over 2 CPUs (parts of 1)")
    assert "0 of 20 losses differ between two runs" in line(lines, "deterministic, mixed_bfloat16")
    ours = line(lines, "tfllm_float32")
    assert " holds " in ours and "tokens/s, MFU " in ours
