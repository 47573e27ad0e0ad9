"""Measure `tfllm prepare`: speed, memory, size on disk, and what a killed run loses.

    python -m scripts.benchmarks.prepare [--gigabytes 1.0] [--num-workers N]

The text is made here: documents of sentences whose words are drawn, by how often they occur, from the language
reference inside Python, a tenth of them with a number, so that words keep coming that were not seen before.
Memory is what /proc says, sampled ten times a second: of the command, and of it and its processes together.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

from scripts.benchmarks.worker import usable_cores

CONFIG = """
name: bench
tokenizer: {{type: byte_bpe, vocab_size: 8192}}
data:
  train: {{type: jsonl, path: {path}}}
  seq_len: 1024
  cache_dir: {cache}
  num_workers: {num_workers}
"""


@dataclass
class Run:
    """What a run of the command took."""

    seconds: float
    parent_bytes: int
    all_bytes: int
    status: int


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line a measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=1.0, help="text to make")
    parser.add_argument("--num-workers", type=int, default=usable_cores())
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_text(folder / "text.jsonl", int(options.gigabytes * 1e9))
        print(f"{size / 1e6:,.0f} MB of text, {options.num_workers} processes", flush=True)
        whole = prepare(folder, "whole", options.num_workers)
        _tell("prepare, tokenizer training included", whole, size)
        tokenizers = folder / "whole" / "tokenizers"
        (folder / "killed").mkdir()
        tokenizers.rename(folder / "killed" / "tokenizers")
        again = folder / "killed" / "rows"
        half = _bytes_in(folder / "whole" / "rows") // 2
        killed = prepare(folder, "killed", options.num_workers, kill_at=(again, half))
        _tell("tokenizer found in the cache, killed at half", killed)
        resumed = prepare(folder, "killed", options.num_workers)
        _tell("the same command again", resumed)
        print(f"tokenising alone: {size / 1e6 / (killed.seconds + resumed.seconds):.2f} MB/s over both parts")
        print(f"store: {_bytes_in(folder / 'whole' / 'rows'):,} bytes")
        same = [_digests(folder / run / "rows") for run in ("whole", "killed")]
        print(f"rows of the killed and resumed run are those of the whole one: {same[0] == same[1]}")


def write_text(path: Path, size: int) -> int:
    """Write JSON lines with `size` bytes of text or a little more, the same on every run."""
    rng = random.Random(0)
    words = " ".join(topics.values()).split()
    written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            text = " ".join(_sentences(rng, words))
            written += len(text.encode())
            file.write(json.dumps({"text": text}) + "\n")
    return written


def _sentences(rng: random.Random, words: list[str]) -> Iterator[str]:
    for _ in range(rng.randint(2, 60)):
        sentence = rng.choices(words, k=rng.randint(4, 24))
        if rng.random() < 0.1:
            sentence.insert(0, f"item{rng.randrange(10**7)}")
        yield " ".join(sentence).capitalize() + "."


def prepare(folder: Path, cache: str, num_workers: int, kill_at: tuple[Path, int] | None = None) -> Run:
    """Run the command into a cache, or kill it and all it started once a folder has so many bytes."""
    config = folder / f"{cache}.yaml"
    config.write_text(
        CONFIG.format(path=folder / "text.jsonl", cache=folder / cache, num_workers=num_workers)
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tfllm.commands.main", "prepare", str(config)]
    start, parent_bytes, all_bytes = time.perf_counter(), 0, 0
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        family = [process.pid, *_children(process.pid)]
        sizes = [_resident(pid) for pid in family]
        parent_bytes, all_bytes = max(parent_bytes, sizes[0]), max(all_bytes, sum(sizes))
        if kill_at is not None and _bytes_in(kill_at[0]) > kill_at[1]:
            process.send_signal(signal.SIGKILL)
            process.wait()
        time.sleep(0.1)
    return Run(time.perf_counter() - start, parent_bytes, all_bytes, process.returncode)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total


def _digests(rows: Path) -> list[str]:
    """What each store says that its rows are; opening it compared some of them."""
    from tfllm.data.store import RowStore

    stores = [RowStore.open(folder) for folder in sorted(rows.iterdir()) if not folder.name.startswith(".")]
    for store in stores:
        store.verify()
    return [store.identity for store in stores]


def _tell(what: str, run: Run, size: int | None = None) -> None:
    rate = f", {size / 1e6 / run.seconds:.2f} MB/s" if size else ""
    print(
        f"{what}: {run.seconds:.1f} s{rate}, status {run.status}; peak memory {run.parent_bytes / 1e6:,.0f} MB,"
        f" with its processes {run.all_bytes / 1e6:,.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
