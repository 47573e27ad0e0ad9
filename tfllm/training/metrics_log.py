"""`metrics.jsonl`: one JSON object a line, cut back to the checkpoint when a run goes on."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

# What the clock decides; everything else in a line repeats digit for digit.
TIMED = (
    "tokens_per_second",
    "useful_tokens_per_second",
    "mfu",
    "input_wait",
    "memory_gb",
    "seconds",
    "step_seconds",
    "input_seconds",
    "evaluate_seconds",
    "sample_seconds",
    "save_seconds",
)


class MetricsLog:
    """Appends lines to `metrics.jsonl`.

    Args:
        path: The file.
        step: Updates already done; later lines, from a run that was killed, are cut off.
        notify: Called with one line when lines cannot be written, as on a full disk.
    """

    def __init__(self, path: str | Path, *, step: int = 0, notify: Callable[[str], None] = print):
        self.path = Path(path)
        self.notify = notify
        self._waiting = b""
        kept = [line for line in read_metrics(self.path) if line["step"] <= step and step > 0]
        part = self.path.with_suffix(".part")
        with part.open("w", encoding="utf-8") as file:
            file.write("".join(metrics_line(entry) for entry in kept))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.path)  # a kill or a power cut in between must not lose the lines

    def write(self, entry: dict[str, Any]) -> None:
        """Appends one line; it is in the file when this returns.

        One that cannot be written costs no run: it waits in memory, and goes into the file before the next.
        """
        first = not self._waiting
        self._waiting += metrics_line(entry).encode()
        try:
            self._append(self._waiting)
            self._waiting = b""
        except OSError as error:
            if first:
                self.notify(f"{self.path} cannot be written ({error.strerror}); its lines wait in memory")

    def _append(self, lines: bytes) -> None:
        with self.path.open("ab", buffering=0) as file:
            end = file.tell()
            if file.write(lines) < len(lines):
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class NoLog:
    """In the place of a `MetricsLog` at workers that write nothing."""

    def write(self, entry: dict[str, Any]) -> None:
        """Forgets the line."""


def read_metrics(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yields the lines of a `metrics.jsonl`.

    What is no line of a log, with a `step` and a `split`, is left out: a last line cut short by a kill, or what
    somebody else wrote there.
    """
    path = Path(path)
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                entry = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if (
                isinstance(entry, dict)
                and type(entry.get("step")) is int
                and isinstance(entry.get("split"), str)
            ):
                yield entry


def metrics_line(entry: Mapping[str, Any]) -> str:
    """Returns an entry as a line of JSON, which has no NaN or infinity: null says "no number"."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
    return json.dumps(finite) + "\n"
