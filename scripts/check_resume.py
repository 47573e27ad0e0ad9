"""Check that a run killed at random moments and continued writes the metrics of an uninterrupted one.

    python scripts/check_resume.py [--config CONFIG] [--steps 60] [--kills 3] [--seed 0]

Trains once uninterrupted. Then trains the same config in another folder, kills the process with SIGKILL a
moment after it has logged a random step, and runs the same command again; after the last kill the run goes
to its end. The two `metrics.jsonl` must be equal but for what the clock decides. Without --config
the check trains a model of a few thousand weights on generated text.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# The checkout, instead of this folder, whose names would hide modules of the standard library.
sys.path[0] = str(ROOT)

from tfllm.training.metrics_log import TIMED, read_metrics

_CONFIG = """
name: resume
tokenizer: byte
model: {{num_layers: 2, hidden_dim: 32, num_heads: 2, dropout: 0.1}}
data:
  train: {{type: text_files, path: {text}, split_on: "\\n\\n"}}
  seq_len: 32
optimizer: {{learning_rate: 3e-3, clip_norm: 0.5, schedule: {{type: cosine, warmup_steps: 5}}}}
training:
  global_batch_size: 4
  jit_compile: false
  log_every: 7
  evaluate_every: 11
  checkpoint_every: 5
generation: {{max_new_tokens: 16}}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when the metrics agree, 1 when they do not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, help="a YAML file (default: a tiny model)")
    parser.add_argument("--steps", type=int, default=60, help="training.steps")
    parser.add_argument("--kills", type=int, default=3, help="how often the run is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        return compare(Path(name), options)


def compare(folder: Path, options: argparse.Namespace) -> int:
    """Trains both runs and prints the verdict."""
    command = training_command(options.config or tiny_config(folder), options.steps)
    start = time.monotonic()
    subprocess.run([*command, folder / "whole"], check=True, capture_output=True, env=environment())
    seconds = time.monotonic() - start
    print(f"uninterrupted: {options.steps} steps in {seconds:.1f} s", flush=True)
    rng = random.Random(options.seed)
    targets = sorted(rng.randint(options.steps // 10, options.steps * 3 // 4) for _ in range(options.kills))
    for number, target in enumerate(targets, 1):
        reached = run_and_kill(command, folder / "killed", target, rng.uniform(0.0, 0.5))
        steps = [path.name for path in sorted((folder / "killed" / "checkpoints").glob("step_*"))]
        print(
            f"kill {number}: asked for at step {target}, log at step {reached},"
            f" last checkpoint {(steps or ['none'])[-1]}",
            flush=True,
        )
    subprocess.run([*command, folder / "killed"], check=True, capture_output=True, env=environment())
    whole, killed = metrics(folder / "whole"), metrics(folder / "killed")
    differ = [pair for pair in zip(whole, killed, strict=False) if pair[0] != pair[1]]
    if differ or len(whole) != len(killed):
        print(f"DIFFERENT: {len(whole)} and {len(killed)} lines; {len(differ)} of them differ")
        for one, other in differ[:3]:
            print(f"  uninterrupted {one}\n  continued     {other}")
        return 1
    print(f"EQUAL: {len(whole)} lines of metrics.jsonl, without {', '.join(TIMED)}")
    return 0


def training_command(config: Path, steps: int) -> list[str | Path]:
    """The command but for the run folder, which comes last."""
    script = ROOT / "scripts" / "train.py"
    return [sys.executable, script, config, f"training.steps={steps}", "--run-dir"]


def run_and_kill(command: list[str | Path], run: Path, target: int, delay: float) -> int:
    """Runs a command, kills it `delay` seconds after it logged step `target`; returns the last step logged."""
    process = subprocess.Popen(
        [*command, run], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
    )
    while last_step(run) < target:
        if process.poll() is not None:
            raise SystemExit(f"the run ended with status {process.returncode} before step {target}")
        time.sleep(0.02)
    time.sleep(delay)
    process.kill()
    process.wait()
    return last_step(run)


def last_step(run: Path) -> int:
    """The last step a run has logged, 0 where it has none."""
    return max((line["step"] for line in read_metrics(run / "metrics.jsonl")), default=0)


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run, without what the clock decides."""
    lines = read_metrics(run / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in TIMED} for line in lines]


def tiny_config(folder: Path) -> Path:
    """Writes text and the config of a model that trains in seconds."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(1, 8))) for _ in range(100)]
    text = "\n\n".join(" ".join(rng.choices(words, k=30)) for _ in range(60))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    path = folder / "resume.yaml"
    path.write_text(_CONFIG.format(text=folder / "text.txt"), encoding="utf-8")
    return path


def environment() -> dict[str, str]:
    """This process's, with a quiet TensorFlow."""
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}


if __name__ == "__main__":
    sys.exit(main())
