"""Measure whether the input waits: rows the pipeline delivers, and how long a training step waits for them.

    python -m scripts.benchmarks.data [--num-rows 50000] [--step-ms 20] [--run runs/quickstart]

Rows are random numbers in a temporary folder; the step is a sleep, as a step on an accelerator is to its
host. The first line is the floor: what `next()` costs on this machine when there is nothing to prepare. The
lines after each shape read the same batches as one of 8 shares, and from a mixture of 8 stores. With a run,
its own shape comes last, beside the rows that its training took.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.data.mixture import RowMixture
from tfllm.data.pipeline import training_batches
from tfllm.data.store import RowStore
from tfllm.experiment.run_folder import RunFolder

SHAPES = ((256, 8), (1024, 64))  # (seq_len, global batch size)
WARM_STEPS = 20  # tracing, filling the prefetch buffer, first touch of the file


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each shape."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-rows", type=int, default=50_000, help="rows in the synthetic store")
    parser.add_argument("--num-steps", type=int, default=200, help="steps to measure")
    parser.add_argument(
        "--step-ms", type=float, default=20.0, help="milliseconds that a simulated step takes"
    )
    parser.add_argument("--run", type=Path, help="the folder of a run, to compare with what it consumed")
    options = parser.parse_args(argv)
    floor = seconds_waited(_floor(), options.num_steps, options.step_ms / 1e3)
    print(f"constant batch: next() takes {_milliseconds(floor)}")
    for seq_len, batch_size in SHAPES:
        measure(seq_len, batch_size, options)
    if options.run is not None:
        seq_len, batch_size, consumed = consumption(options.run)
        alone = measure(seq_len, batch_size, options)
        print(f"{options.run} consumed {consumed:,.0f} rows/s: {consumed / alone:.2%} of that")


def measure(seq_len: int, batch_size: int, options: argparse.Namespace) -> float:
    """Print the lines of a shape; return the rows a second of a single store."""
    step_seconds = options.step_ms / 1e3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = synthetic_store(folder / "one", num_rows=options.num_rows, seq_len=seq_len)
        parts = [
            synthetic_store(folder / str(k), num_rows=options.num_rows // 8, seq_len=seq_len)
            for k in range(8)
        ]
        rate = rows_per_second(_warm(store, batch_size), options.num_steps, batch_size)
        waits = seconds_waited(_warm(store, batch_size), options.num_steps, step_seconds)
        share = _warm(store, 8 * batch_size, num_shares=8, shares=range(3, 4))
        share_rate = rows_per_second(share, options.num_steps, batch_size)
        mixture = RowMixture(tuple(parts), tuple(range(1, 9)))
        mixture_rate = rows_per_second(_warm(mixture, batch_size), options.num_steps, batch_size)
    print(
        f"seq_len {seq_len}, batch {batch_size}: {rate:,.0f} rows/s, {rate * seq_len:,.0f} tokens/s; "
        f"next() takes {_milliseconds(waits)} beside a step of {options.step_ms:g} ms: "
        f"{np.median(waits) / step_seconds:.1%}\n"
        f"  as one of 8 shares {share_rate:,.0f} rows/s; from a mixture of 8 stores {mixture_rate:,.0f} rows/s"
    )
    sys.stdout.flush()
    return rate


def consumption(run: Path) -> tuple[int, int, float]:
    """Return the seq_len, the global batch size and the rows a second (median) of a run's training."""
    config = RunFolder(run).load_config()
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = [entry["tokens_per_second"] for entry in entries if entry["split"] == "train"]
    seq_len = config.data.seq_len
    return seq_len, config.training.global_batch_size, float(np.median(rates)) / seq_len


def synthetic_store(folder: Path, *, num_rows: int, seq_len: int) -> RowStore:
    """Write random rows of three segments, without the road from text."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    path = folder / "rows.bin"
    segments = np.sort(rng.integers(1, 4, seq_len)).astype(np.uint16)
    with path.open("wb") as file:
        for start in range(0, num_rows, 1000):
            rows = rng.integers(0, 1 << 16, (min(1000, num_rows - start), 3, seq_len), dtype=np.uint16)
            rows[:, 2] = segments
            file.write(rows.tobytes())
    return RowStore(
        path=path,
        num_rows=num_rows,
        seq_len=seq_len,
        dtype="uint16",
        packing=True,
        pad_id=0,
        num_documents=num_rows,
        num_tokens=num_rows * seq_len,
        num_bytes=num_rows * seq_len,
    )


def rows_per_second(batches: Iterator[Any], num_steps: int, batch_size: int) -> float:
    """Return how many rows a second a consumer gets that does nothing else."""
    start = time.perf_counter()
    for _ in range(num_steps):
        next(batches)
    return num_steps * batch_size / (time.perf_counter() - start)


def seconds_waited(batches: Iterator[Any], num_steps: int, step_seconds: float) -> np.ndarray:
    """Return the seconds that each `next()` takes, float64 [num_steps], between steps of `step_seconds`."""
    waits = np.zeros(num_steps)
    for step in range(num_steps):
        time.sleep(step_seconds)
        start = time.perf_counter()
        next(batches)
        waits[step] = time.perf_counter() - start
    return waits


def _milliseconds(seconds: np.ndarray) -> str:
    """Medians, because on a shared machine the mean is other programs' doing."""
    median, most, worst = np.quantile(seconds * 1e3, [0.5, 0.9, 1.0])
    return f"{median:.2f} ms (median; 90% within {most:.2f}, worst {worst:.2f})"


def _floor() -> Iterator[Any]:
    batch = {name: tf.zeros([8, 256], tf.int32) for name in "abcdefg"}  # as many features as a batch has
    return iter(tf.data.Dataset.range(1 << 40).map(lambda _: batch).prefetch(tf.data.AUTOTUNE))


def _warm(rows: RowStore | RowMixture, batch_size: int, **shares: Any) -> Iterator[Any]:
    batches = iter(training_batches(rows, global_batch_size=batch_size, seed=0, **shares))
    for _ in range(WARM_STEPS):
        next(batches)
    return batches


if __name__ == "__main__":
    main()
