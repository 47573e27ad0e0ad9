"""Check that what holds on the CPU holds on this machine's accelerators, and how fast they are.

    python -m scripts.checks.device [--peers ~/peers/bin/python] [--seconds 900] [--only SECTION ...]

Prints one table in less than fifteen minutes, on a GPU, several, a TPU or only a CPU, whose logical devices then
stand in for accelerators. Through `tfllm train`'s own loop: the losses of 20 steps on the accelerator beside the
CPU's in float32, with factors in TF32, in mixed_bfloat16 and in mixed_float16 with its dynamic loss scale, mirrored
over all accelerators beside one (of a machine with one GPU, over its two halves), and twice with
training.deterministic. Then generation with and without XLA, an export loaded again, and training at 124 million
parameters, the shape of GPT-2 small: tokens a second, MFU and peak device memory, beside transformers under
torch.compile where PyTorch is installed, here or in the environment of `--peers`.

Sections run in processes of their own, so that none can take the others with it. Each has a share of the seconds;
what does not fit is called not measured. The exit status is 0 when all that was measured holds, 1 when something
does not hold or failed, 3 when nothing failed but something did not fit.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from scripts.benchmarks.worker import Report, Worker, WorkerEnded, WorkerLate, usable_cores

# The part of the time that each may take of what is left for it and those after it.
SHARES = {
    "product": 25,  # and the start of TensorFlow
    "float32": 30,
    "tf32": 10,
    "mixed_bfloat16": 12,
    "mixed_float16": 12,
    "mirrored": 15,
    "decode": 20,
    "export": 12,
    "deterministic": 20,
}
# Trained at 124M parameters: by whom, in what, and the same part. On a CPU in float32 only: few have bfloat16.
TRAININGS = {
    "tfllm_mixed_bfloat16": 35,
    "torch_mixed_bfloat16": 35,
    "tfllm_float32": 30,
    "torch_float32": 30,
}
GPT2 = {
    "vocab": 50257,
    "layers": 12,
    "width": 768,
    "heads": 12,
    "seq_len": 1024,
    "batch": 8,
    "new_tokens": 32,
}
TINY = {"vocab": 300, "layers": 1, "width": 16, "heads": 2, "seq_len": 32, "batch": 2, "new_tokens": 16}
# A CPU takes seconds for a thousand tokens.
ON_A_CPU = {"seq_len": 512, "batch": 1}

_FAILED, _LATE = 1, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    arguments = _parse(argv)
    log = Path(tempfile.gettempdir()) / f"check_device_{os.getpid()}.log"
    table = Table()
    with tempfile.TemporaryDirectory() as folder, log.open("wb") as stream:
        Check(arguments, table, Path(folder), stream).run()
    status = table.finish()
    if status == 0:
        log.unlink()
    else:
        print(f"what the libraries printed, and where a late process was, is in {log}")
    return status


class Table:
    """Prints rows as they come, and keeps count."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self.failed: list[str] = []
        self.late: list[str] = []

    def add(self, title: str, words: str, good: bool | None = None) -> None:
        """Prints a row: what was measured, and whether it holds; None where there is nothing to hold."""
        verdict = {True: "holds", False: "FAILED", None: ""}[good]
        if good is False:
            self.failed.append(title.strip())
        seconds = time.monotonic() - self._begin
        print(f"{title:<44}{verdict:<8}{seconds:>5.0f} s  {words}", flush=True)

    def add_late(self, title: str, why: str) -> None:
        """Prints a row for what did not fit into the time."""
        self.late.append(title)
        self.add(title, f"not measured: {why}")

    def finish(self) -> int:
        """Prints what it comes to, and returns the exit status."""
        if self.late:
            print(f"NOT MEASURED for want of time: {', '.join(self.late)}; give --seconds more")
        if self.failed:
            print(f"FAILED: {', '.join(self.failed)}")
            return _FAILED
        print("nothing that was measured failed" if self.late else "all that was measured holds")
        return _LATE if self.late else 0


class Check:
    """The sections, one after the other.

    Args:
        arguments: The command line's.
        table: Receives the rows.
        folder: For runs.
        log: Receives what libraries print.
    """

    def __init__(self, arguments: argparse.Namespace, table: Table, folder: Path, log: IO[Any]):
        self.arguments, self.table, self.folder, self.log = arguments, table, folder, log
        self.shape = dict(TINY if arguments.tiny else GPT2)
        self.end = time.monotonic() + arguments.seconds
        self.deadline = self.end
        self.left = [name for name in (*SHARES, *TRAININGS) if name in arguments.only]
        self.about: Report = {}
        self.rates: dict[str, float] = {}
        self.ours: dict[str, Report] = {}

    def run(self) -> None:
        """Runs all."""
        while sections := [name for name in self.left if name in SHARES]:
            self._sections(sections)
        for name in list(self.left):
            self._begin(name)
            self._guarded(name, self._training)

    def _begin(self, name: str) -> None:
        """Gives a section its time: twice its share of what is left, for most leave some over, or two fifths of it.

        So a machine that is busy measures the first ones, and not a little of each; one that hangs leaves the rest
        most of the time.
        """
        shares = {**SHARES, **TRAININGS}
        part = shares[name] / sum(shares[each] for each in self.left if self._fits_device(each))
        self.left.remove(name)
        now = time.monotonic()
        self.deadline = now + max(0.0, self.end - now) * min(1.0, max(2 * part, 0.4))

    def _fits_device(self, name: str) -> bool:
        return name in SHARES or self.about.get("kind") != "CPU" or name.endswith("_float32")

    def _guarded(self, name: str, section: Callable[[str], None]) -> bool:
        """Runs one; returns whether its process lives on."""
        try:
            section(name)
            return True
        except WorkerLate:
            self.table.add_late(name, "it did not end in its share of the time")
        except (WorkerEnded, OSError) as error:
            self.table.add(name, f"{error}: {self._last_line()}", False)
        return False

    def _sections(self, names: list[str]) -> None:
        """Runs sections in one process, until it ends."""
        worker: Worker | None = None

        def section(name: str) -> None:
            nonlocal worker
            if worker is None:
                worker = self._start(names)
            self._add(name, self._measure(worker))

        for name in names:
            self._begin(name)
            if not self._guarded(name, section):
                return
        if worker is not None:
            worker.close()

    def _start(self, names: list[str]) -> Worker:
        settings = {
            "folder": str(self.folder),
            "shape": self.shape,
            "jit_compile": not self.arguments.no_xla,
            "sections": names,
        }
        worker = self._worker(sys.executable, "scripts.checks.device_sections", settings)
        if not self.about:
            self.about = worker.report
            words = "{physical} x {name}, {logical} logical; TensorFlow {tensorflow}".format(**self.about)
            self.table.add("device", words)
        return worker

    def _worker(self, python: str, module: str, settings: Report) -> Worker:
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise WorkerLate
        return Worker(python, module, settings, threads=usable_cores(), log=self.log, timeout=seconds)

    def _measure(self, worker: Worker) -> Report:
        worker.timeout = max(0.0, self.deadline - time.monotonic())
        return worker.measure()

    def _add(self, name: str, report: Report) -> None:
        if "error" in report:
            self.table.add(name, report["error"], False)
        for row in report.get("rows", []):
            self.rates |= row.get("rates", {})
            self.table.add(row["title"], row["words"], row["good"])

    def _training(self, name: str) -> None:
        """Trains at 124M."""
        system, _, precision = name.partition("_")
        if not self._fits_device(name):
            return self.table.add(name, "not measured: in float32 only on a CPU")
        python = sys.executable if system == "tfllm" else self.arguments.peers or _with_torch()
        if python is None:
            return self.table.add(name, "not measured: no PyTorch and transformers here; see --peers")
        on_cpu = self.about.get("kind", "CPU") == "CPU"
        settings: Report = {**self.shape, **(ON_A_CPU if on_cpu and not self.arguments.tiny else {})}
        settings |= {"precision": precision, "steps": 3 if on_cpu else 20, "model": {}, "task": {}}
        settings["system"] = "tfllm" if system == "tfllm" else "torch_compile"
        module = f"scripts.benchmarks.training_{'tensorflow' if system == 'tfllm' else 'torch'}"
        worker = self._worker(python, module, settings)
        report = {**worker.report, **self._measure(worker)}
        worker.close()
        report["rate"] = settings["batch"] * settings["seq_len"] * settings["steps"] / report["seconds"]
        report["gb"] = report.get("device_gb", report["peak_gb"])
        self._add_training(name, precision, report, self.ours.get(precision))
        if system == "tfllm":
            self.ours[precision] = report

    def _add_training(self, name: str, precision: str, report: Report, ours: Report | None) -> None:
        flops = report.get("flops_per_token") or (ours or {}).get("flops_per_token")
        peak = self.rates.get(precision)
        mfu = f", MFU {report['rate'] * flops / peak:.1%}" if flops and peak else ""
        words = (
            f"{report['parameters'] / 1e6:.1f}M: {report['rate']:,.0f} tokens/s{mfu}, peak {report['gb']:.2f} GB,"
            f" start {report['start_seconds']:.0f} s, loss {report['first_loss']:.2f} -> {report['loss']:.2f}"
        )
        if ours is not None:
            words += (
                f"; tfllm's speed {ours['rate'] / report['rate']:.2f}, memory {ours['gb'] / report['gb']:.2f}"
            )
        learned = math.isfinite(report["loss"]) and report["loss"] < report["first_loss"]
        self.table.add(name, words, learned)

    def _last_line(self) -> str:
        """Of what the process printed before it ended."""
        lines = [line.strip() for line in Path(self.log.name).read_text(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "none")


def _with_torch() -> str | None:
    """This interpreter, if it has what the peers need."""
    has = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    return sys.executable if has else None


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*SHARES, *TRAININGS]
    parser.add_argument("--peers", metavar="PYTHON", help="interpreter that has PyTorch and transformers")
    parser.add_argument("--seconds", type=float, default=900, help="time for all of it (default %(default)s)")
    parser.add_argument(
        "--only", nargs="+", default=names, choices=names, metavar="SECTION", help=f"of {', '.join(names)}"
    )
    parser.add_argument("--tiny", action="store_true", help="a model too small to say anything about speed")
    parser.add_argument(
        "--no-xla", action="store_true", help="training.jit_compile=false in the small trainings"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
