"""One system of a benchmark in a process of its own: made ready once, then measured each time it is told to.

Only the standard library, because the systems may run in different environments. Requests are lines on the
standard input, reports are JSON lines on what was the standard output; whatever libraries print goes to the
standard error.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from scripts import ROOT

Report = dict[str, Any]


class WorkerEnded(SystemExit):
    """The process ended instead of reporting; where nobody catches it, the benchmark ends too."""


class WorkerLate(Exception):
    """The process has not reported in time."""


class Worker:
    """The process, started and made ready when this returns.

    Args:
        python: The interpreter.
        module: Its name, such as `scripts.benchmarks.training_torch`; it calls `serve`.
        settings: JSON values, given to what the module builds.
        threads: Threads to compute with.
        log: Receives what the process and its libraries print; None is this process's standard error.
        timeout: Seconds that it may take to be ready, and seconds for each measurement; None is any number.

    Attributes:
        report: What the process said when it was ready, and `start_seconds` from nothing to there.

    Raises:
        WorkerEnded: when the process ends before it is ready.
        WorkerLate: when it takes too long; it is ended then, its Python stacks in the log.
    """

    def __init__(
        self,
        python: str,
        module: str,
        settings: Mapping[str, Any],
        *,
        threads: int,
        log: IO[Any] | None = None,
        timeout: float | None = None,
    ):
        begin = time.perf_counter()
        self.timeout = timeout
        self._where = "above" if log is None else "in the log"
        self._process = subprocess.Popen(
            [python, "-m", module, json.dumps({**settings, "threads": threads})],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=_environment(threads),
        )
        self.report = {**self._read(), "start_seconds": time.perf_counter() - begin}

    def measure(self) -> Report:
        """Let it run once, and return its report and its `peak_gb`, the most memory it has held so far."""
        assert self._process.stdin is not None
        self._process.stdin.write("measure\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> Report:
        assert self._process.stdout is not None
        # A report is one line, written at once, and none follows before it is asked for.
        if not select.select([self._process.stdout], [], [], self.timeout)[0]:
            self._process.send_signal(signal.SIGUSR1)  # it says where it is
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1)
            self.kill()
            raise WorkerLate
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise WorkerEnded(f"a worker ended with status {status}; its message is {self._where}")
        return json.loads(line)


def in_turns(workers: Mapping[str, Worker], rounds: int) -> dict[str, list[Report]]:
    """Measure all, one after the other, again and again, so that every one meets the same machine."""
    reports: dict[str, list[Report]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            reports[name].append(worker.measure())
    return reports


def serve(build: Callable[[Report], tuple[Callable[[], Report], Report]], arguments: Sequence[str]) -> None:
    """The process's side.

    Args:
        build: Takes the settings; returns a function that measures once, and a report of being ready.
        arguments: The command line's: the settings as JSON.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    measure, report = build(json.loads(arguments[0]))
    answers.write(json.dumps(report) + "\n")
    for _ in sys.stdin:
        answers.write(json.dumps({**measure(), "peak_gb": peak_gb()}) + "\n")


def peak_gb() -> float:
    """The most memory this process has held, in 1e9 bytes."""
    try:  # unlike getrusage, this does not begin with what the parent held
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _environment(threads: int) -> dict[str, str]:
    return {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "KERAS_BACKEND": "tensorflow",
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",  # XLA keeps none either: a start is from nothing
    }


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
