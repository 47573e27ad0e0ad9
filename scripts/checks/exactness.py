"""Print how far a run moves when only the way it is spread changes: the exactness table.

    python -m scripts.checks.exactness [--steps 100] [--precisions float32 mixed_bfloat16] [--layouts ...] [--no-xla]

Trains one small model on real English over and over, through `tfllm train`, XLA on, gradients clipped, rows
of uneven length and so of uneven weight, dropout on: on one device; on two; with the batch in four parts; as two
workers connected over loopback; stopped in the middle and continued on another number of devices; and all of it
together. For each it prints the largest difference of a step's loss from the plain run's, in nats, and the
largest difference of a weight at the end beside the largest weight.

Packed against unpacked has a plain run of its own: every step sees all of a few documents, several to a row or
one, without dropout, which belongs to the row.

Of a right order of summing only rounding remains, which training amplifies: in float32 1e-7 a step. In bfloat16
the same operations give the same digits, but XLA keeps some values between operations in float32 where it
fuses them, and fuses other ones for other shapes (`--no-xla` shows how much of the difference that is).
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts import ROOT
from scripts.checks.resume import environment, last_step
from scripts.checks.workers import free_ports
from tfllm.training.checkpoint_folder import checkpoint_paths
from tfllm.training.metrics_log import read_metrics

# Training amplifies rounding: what may be left after 100 steps, by precision.
TOLERANCES = {"float32": 1e-4, "mixed_bfloat16": 0.1}
_CONFIG = """
name: exactness
tokenizer: byte
model: {{num_layers: 2, hidden_dim: 64, num_heads: 4, num_kv_heads: 2, dropout: {dropout}}}
data: {{train: {{type: text_files, path: {text}, split_on: "\\n\\n"}}, seq_len: {seq_len}, packing: {packing}}}
optimizer: {{learning_rate: 5e-4, clip_norm: 0.3, schedule: {{type: cosine, warmup_steps: 10}}}}
training: {{global_batch_size: {batch}, log_every: 1, checkpoint_every: 1000, steps_per_call: 5}}
generation: {{max_new_tokens: 8}}
"""
_TWO_DEVICES = ("distribution.type=mirrored", "distribution.num_devices=2")
LAYOUTS: dict[str, tuple[str, ...]] = {
    "2 devices": _TWO_DEVICES,
    "4 microbatches": ("training.microbatch_size=2",),
    "2 devices x 2 microbatches": (*_TWO_DEVICES, "training.microbatch_size=2"),
    "2 workers": ("workers",),
    "2 workers x 2 microbatches": ("workers", "training.microbatch_size=2"),
    "stopped, continued": ("stop",),
    "stopped, continued on 2 devices": ("stop", *_TWO_DEVICES),
    "packed": (),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when every difference is within what rounding explains, 1 when one is not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100, help="training.steps")
    parser.add_argument("--precisions", nargs="+", default=list(TOLERANCES), choices=list(TOLERANCES))
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS), choices=list(LAYOUTS), metavar="NAME")
    parser.add_argument("--no-xla", action="store_true", help="training.jit_compile=false")
    options = parser.parse_args(argv)
    good = True
    print(f"{'':<34}{'precision':<16}{'loss, nats':>15}{'weights':>11}{'of':>7}{'seconds':>9}")
    with tempfile.TemporaryDirectory() as name:
        for precision in options.precisions:
            bench = Bench(Path(name) / precision, precision, options)
            for layout in options.layouts:
                start = time.monotonic()
                loss, weight, largest = bench.differences(layout)
                seconds = time.monotonic() - start
                good = good and loss < TOLERANCES[precision]
                print(
                    f"{layout:<34}{precision:<16}{loss:>15.1e}{weight:>11.1e}{largest:>7.2f}{seconds:>9.0f}",
                    flush=True,
                )
    print("EQUAL but for rounding" if good else "DIFFERENT")
    return 0 if good else 1


class Bench:
    """The runs of one precision."""

    def __init__(self, folder: Path, precision: str, options: argparse.Namespace):
        folder.mkdir(parents=True)
        self.folder, self.steps = folder, options.steps
        self.common = [f"training.precision={precision}", f"training.steps={options.steps}"]
        self.common.append(f"training.jit_compile={str(not options.no_xla).lower()}")
        text = folder / "text.txt"
        text.write_text("\n\n".join(sentences(400, 10, 60)))
        uneven = {"text": text, "dropout": 0.1, "seq_len": 64, "packing": "false", "batch": 8}
        self.uneven = self._config("uneven", uneven)
        # Every step sees the same documents, one or four to a row: of 16 tokens each, so that none is cut.
        short = folder / "short.txt"
        short.write_text("\n\n".join(sentences(60, 15, 15)))
        shared = {"text": short, "dropout": 0.0, "seq_len": 64}
        self.unpacked = self._config("unpacked", {**shared, "packing": "false", "batch": 0})
        self.packed = self._config("packed", {**shared, "packing": "true", "batch": 0})
        self._plain: dict[str, Path] = {}

    def differences(self, layout: str) -> tuple[float, float, float]:
        """Largest difference of a loss, largest one of a weight, and the largest weight."""
        if layout == "packed":
            plain = self._once(
                "unpacked", self.unpacked, [f"training.global_batch_size={self._rows(self.unpacked)}"]
            )
            other = self._once(
                "packed", self.packed, [f"training.global_batch_size={self._rows(self.packed)}"]
            )
        else:
            plain = self._once("plain", self.uneven, [])
            other = self._spread(layout)
        ours, theirs = losses(plain), losses(other)
        if len(ours) != len(theirs) or len(ours) != self.steps:
            raise SystemExit(f"{layout}: {len(theirs)} steps logged, {len(ours)} in the plain run")
        a, b = weights(plain), weights(other)
        worst = max(float(np.abs(a[name] - b[name]).max()) for name in a)
        largest = max(float(np.abs(value).max()) for value in a.values())
        return float(np.abs(ours - theirs).max()), worst, largest

    def _spread(self, layout: str) -> Path:
        run = self.folder / layout.replace(" ", "_").replace(",", "")
        words = list(LAYOUTS[layout])
        if words[:1] == ["workers"]:
            self._workers(run, words[1:])
        elif words[:1] == ["stop"]:
            process = self._start(run, self.uneven, [])
            while last_step(run) < self.steps // 2 and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            self._finish(process, run, 143)
            self._finish(self._start(run, self.uneven, words[1:]), run)
        else:
            self._finish(self._start(run, self.uneven, words), run)
        return run

    def _workers(self, run: Path, words: list[str]) -> None:
        addresses = ",".join(f"localhost:{port}" for port in free_ports(2))
        words = [*words, "distribution.type=multi_worker", f"distribution.workers=[{addresses}]"]
        processes = [self._start(run, self.uneven, [*words, f"distribution.index={i}"]) for i in (0, 1)]
        for process in processes:
            self._finish(process, run)

    def _once(self, name: str, config: Path, words: list[str]) -> Path:
        if name not in self._plain:
            self._plain[name] = self.folder / f"run_{name}"
            self._finish(self._start(self._plain[name], config, words), self._plain[name])
        return self._plain[name]

    def _start(self, run: Path, config: Path, words: list[str]) -> subprocess.Popen[bytes]:
        command: list[Any] = [sys.executable, ROOT / "scripts" / "train.py", config, "--run-dir", run]
        with run.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(
                [*command, *self.common, *words], stdout=log, stderr=log, env=environment()
            )

    def _finish(self, process: subprocess.Popen[bytes], run: Path, status: int = 0) -> None:
        if process.wait() != status:
            raise SystemExit(f"exit status {process.returncode}:\n{run.with_suffix('.log').read_text()}")

    def _config(self, name: str, values: dict[str, Any]) -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(_CONFIG.format(**{**values, "batch": values["batch"] or 1}))
        return path

    def _rows(self, config: Path) -> int:
        """Rows of the training split."""
        command: list[Any] = [sys.executable, ROOT / "scripts" / "prepare.py", config]
        out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment()).stdout
        line = next(line for line in out.splitlines() if line.startswith("train"))
        return int(line.split(" tokens in ")[1].split()[0].replace(",", ""))


def losses(run: Path) -> np.ndarray:
    """The loss of every training step."""
    return np.array([e["loss"] for e in read_metrics(run / "metrics.jsonl") if e["split"] == "train"])


def weights(run: Path) -> dict[str, np.ndarray]:
    """The model's weights in the last checkpoint."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(checkpoint_paths(run / "checkpoints")[-1] / "variables"))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("model/")]
    return {name: reader.get_tensor(name).astype(np.float64) for name in names}


def sentences(count: int, shortest: int, longest: int) -> list[str]:
    """Different pieces of real English, of `shortest` to `longest` characters."""
    import pydoc_data.topics

    text = " ".join(" ".join(pydoc_data.topics.topics.values()).split())
    rng = np.random.default_rng(0)
    starts = rng.choice(len(text) - longest, count, replace=False)
    return [
        text[s : s + length]
        for s, length in zip(starts, rng.integers(shortest, longest + 1, count), strict=True)
    ]


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main())
