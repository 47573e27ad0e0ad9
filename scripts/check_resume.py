"""Check that a run killed at random moments and continued writes the metrics of an uninterrupted one.

    python scripts/check_resume.py [--config CONFIG] [--steps 60] [--kills 3] [--seed 0]

Trains once uninterrupted. Then trains the same config in another folder, kills the process with SIGKILL after
a random share of the time that the whole run took, and runs the same command again; after the last kill the
run goes to its end. The two `metrics.jsonl` must be equal but for what the clock decides. Without --config
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
    for number in range(1, options.kills + 1):
        after = seconds * rng.uniform(0.3, 0.95)
        ended = run_and_kill([*command, folder / "killed"], after)
        steps = [path.name for path in sorted((folder / "killed" / "checkpoints").glob("step_*"))]
        what = "ended by itself before" if ended else "killed after"
        print(f"run {number}: {what} {after:.1f} s; last checkpoint: {(steps or ['none'])[-1]}", flush=True)
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


def run_and_kill(command: list[str | Path], seconds: float) -> bool:
    """Runs a command for so long, then kills it; returns whether it had ended by itself."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
    )
    try:
        process.wait(timeout=seconds)
        return True
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


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
