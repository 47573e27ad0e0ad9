"""Check what several workers do when one of them dies, is told to stop, or was started with something else.

    python -m scripts.checks.workers [--steps 60] [--kill 0|1]

Two processes on this machine, connected over loopback, train one model. Once uninterrupted; once with one of
them killed by SIGKILL, after which the other must stop by itself within a minute, and both are started again;
once with SIGTERM to one of them, after which both must save, leave with 143, and go on. The metrics of all
three must be equal but for what the clock decides. Then workers with different configs must refuse each other.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts import ROOT
from scripts.checks.resume import differing_tensors, environment, last_step, metrics, tiny_config

LOST, TERMINATED = 75, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when everything is as it must be, 1 when not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, help="a YAML file (default: a tiny model)")
    parser.add_argument("--steps", type=int, default=60, help="training.steps")
    parser.add_argument("--kill", type=int, choices=(0, 1), default=1, help="the worker that dies")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = options.config or tiny_config(folder)
        job = Job(config, options.steps, folder)
        failures = [*job.uninterrupted(), *job.killed(options.kill), *job.terminated(), *job.disagreeing()]
    print("\n".join(failures) or "EQUAL")
    return 1 if failures else 0


class Job:
    """Two workers and their runs."""

    def __init__(self, config: Path, steps: int, folder: Path):
        self.config, self.steps, self.folder = config, steps, folder

    def uninterrupted(self) -> list[str]:
        """Trains to the end; this is what the others are compared with."""
        start = time.monotonic()
        statuses = self._wait(self._start("whole"))
        print(
            f"uninterrupted: {self.steps} steps in {time.monotonic() - start:.1f} s, exit status {statuses}",
            flush=True,
        )
        return (
            []
            if statuses == [0, 0]
            else [f"uninterrupted: exit status {statuses}\n{self._messages('whole')}"]
        )

    def killed(self, victim: int) -> list[str]:
        """Kills one worker, waits for the other, starts both again."""
        workers = self._start("killed")
        step = self._reach("killed", self.steps // 2, workers)
        workers[victim].kill()
        start = time.monotonic()
        survivor = workers[1 - victim]
        try:
            status: Any = survivor.wait(120)
        except subprocess.TimeoutExpired:
            survivor.kill()
            status = "still running"
        seconds = time.monotonic() - start
        words = self._messages("killed", 1 - victim).strip().splitlines()[-1:]
        print(
            f"worker {victim} killed at step {step}: the other stopped after {seconds:.1f} s,"
            f" exit status {status}: {words}",
            flush=True,
        )
        failures = (
            []
            if status == LOST and seconds < 60
            else [f"the survivor: {status} after {seconds:.0f} s\n{self._messages('killed')}"]
        )
        return failures + self._again("killed")

    def terminated(self) -> list[str]:
        """Sends SIGTERM to one worker; both save and leave."""
        workers = self._start("terminated")
        step = self._reach("terminated", self.steps // 3, workers)
        workers[1].send_signal(signal.SIGTERM)
        statuses = self._wait(workers)
        print(f"SIGTERM to worker 1 after step {step}: exit status {statuses}", flush=True)
        failures = (
            []
            if statuses == [TERMINATED] * 2
            else [f"SIGTERM: exit status {statuses}\n{self._messages('terminated')}"]
        )
        return failures + self._again("terminated")

    def disagreeing(self) -> list[str]:
        """Starts the second worker with another learning rate."""
        statuses = self._wait(self._start("disagreeing", ["optimizer.learning_rate=1e-4"]))
        words = self._messages("disagreeing")
        print(f"another config: exit status {statuses}: {words.strip().splitlines()[-1]}", flush=True)
        good = statuses == [1, 1] and words.count("was started with another config") == 2
        return [] if good else [f"another config: exit status {statuses}\n{words}"]

    def _again(self, run: str) -> list[str]:
        statuses = self._wait(self._start(run))
        whole, again = metrics(self.folder / "whole"), metrics(self.folder / run)
        compared, differing = differing_tensors(self.folder / "whole", self.folder / run)
        equal = whole == again and not differing
        print(
            f"  started again: exit status {statuses}; {len(again)} lines of metrics.jsonl and {len(compared)}"
            f" tensors of the last checkpoint, {'equal' if equal else 'DIFFERENT'}",
            flush=True,
        )
        good = statuses == [0, 0] and equal
        return (
            [] if good else [f"{run}: exit status {statuses}, differing: {differing}\n{self._messages(run)}"]
        )

    def _start(self, run: str, second: Sequence[str] = ()) -> list[subprocess.Popen]:
        addresses = ",".join(f"localhost:{port}" for port in free_ports(2))
        workers = []
        for index in (0, 1):
            settings = [
                f"training.steps={self.steps}",
                "distribution.type=multi_worker",
                f"distribution.workers=[{addresses}]",
                f"distribution.index={index}",
                *(second if index else ()),
            ]
            command: list[str | Path] = [
                sys.executable,
                ROOT / "scripts" / "train.py",
                self.config,
                "--run-dir",
                self.folder / run,
                *settings,
            ]
            with (self.folder / f"{run}_{index}.log").open("ab") as log:
                workers.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment()))
        return workers

    def _reach(self, run: str, step: int, workers: list[subprocess.Popen]) -> int:
        while last_step(self.folder / run) < step:
            if any(worker.poll() is not None for worker in workers):
                raise SystemExit(f"a worker ended before step {step}:\n{self._messages(run)}")
            time.sleep(0.02)
        return last_step(self.folder / run)

    def _wait(self, workers: list[subprocess.Popen]) -> list[int]:
        return [worker.wait(600) for worker in workers]

    def _messages(self, run: str, worker: int | None = None) -> str:
        numbers = (0, 1) if worker is None else (worker,)
        return "".join((self.folder / f"{run}_{i}.log").read_text(errors="replace") for i in numbers)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main())
