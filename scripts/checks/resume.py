"""Check that a run killed again and again ends with the weights and metrics of an uninterrupted one.

    python -m scripts.checks.resume [--config CONFIG] [--steps 4000] [--kills 50] [--seed 0]

Fifty kills take about 20 minutes on two cores; `--steps 200 --kills 3` takes two.

Trains once uninterrupted. Then trains the same config in another folder, kills the process with SIGKILL at
random moments and runs the same command again; after the last kill the run goes to its end. A fifth of the
kills comes while a process starts, the others while it trains; of these, three fifths wait, after their
random moment, for the next save to begin, and strike within it. After each kill the newest whole
checkpoint must not be older than it was before. In the end the two `metrics.jsonl` must be equal but for
what the clock decides, and so must every tensor of the last checkpoints, optimizer and all, bit for bit.
Without --config the check trains a model of a few thousand weights on generated text.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts import ROOT
from tfllm.training.checkpoint_folder import (
    checkpoint_paths,
    checkpoint_step,
    looks_whole,
    verified_manifest,
)
from tfllm.training.errors import CheckpointError
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
  evaluate_every: 110
  checkpoint_every: 3
generation: {{max_new_tokens: 16}}
"""
# Kills in a row after which a run that saved nothing new is given up.
_PATIENCE = 15


@dataclasses.dataclass
class Kill:
    """What a kill hit.

    Args:
        where: "start-up", "a save" or "training".
        seconds: Age of the process.
        step: Of the newest whole checkpoint, 0 without one.
    """

    where: str
    seconds: float
    step: int


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when metrics and weights agree, 1 when they do not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, help="a YAML file (default: a tiny model)")
    parser.add_argument("--steps", type=int, default=4000, help="training.steps")
    parser.add_argument("--kills", type=int, default=50, help="how often the run is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        return compare(Path(name), options)


def compare(folder: Path, options: argparse.Namespace) -> int:
    """Trains both runs and prints the verdict."""
    command = training_command(options.config or tiny_config(folder), options.steps)
    start_up, training = run_whole(command, folder / "whole")
    print(
        f"uninterrupted: {options.steps} steps in {training:.1f} s, after {start_up:.1f} s of start-up",
        flush=True,
    )
    kills = run_and_kill(command, folder / "killed", options, start_up, training)
    hit = {where: sum(kill.where == where for kill in kills) for where in ("a save", "start-up", "training")}
    print(
        f"{len(kills)} kills hit: {', '.join(f'{where} {count}' for where, count in hit.items())}", flush=True
    )
    run_whole(command, folder / "killed")
    return verdict(folder / "whole", folder / "killed")


def verdict(whole: Path, killed: Path) -> int:
    """Compares metrics and last checkpoints of two runs; returns the exit status."""
    ours, theirs = metrics(whole), metrics(killed)
    lines = [pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]]
    names, tensors = differing_tensors(whole, killed)
    if lines or len(ours) != len(theirs) or tensors:
        print(f"DIFFERENT: {len(ours)} and {len(theirs)} lines; {len(lines)} of them differ")
        for one, other in lines[:3]:
            print(f"  uninterrupted {one}\n  continued     {other}")
        print(f"  {len(tensors)} of {len(names)} tensors differ: {', '.join(tensors[:3])}")
        return 1
    print(f"EQUAL: {len(ours)} lines of metrics.jsonl, without {', '.join(TIMED)};")
    print(f"       {len(names)} tensors of the last checkpoints, bit for bit")
    return 0


def training_command(config: Path, steps: int) -> list[str | Path]:
    """The command but for the run folder, which comes last."""
    script = ROOT / "scripts" / "train.py"
    return [sys.executable, script, config, f"training.steps={steps}", "--run-dir"]


def run_whole(command: list[str | Path], run: Path) -> tuple[float, float]:
    """Runs a command to its end; returns the seconds until its first sign of training, and from there."""
    process, begin = start(command, run)
    first = None
    while process.poll() is None:
        if first is None and has_trained(run, begin):
            first = time.time()
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"the run in {run} ended with status {process.returncode}; see {log_path(run)}")
    end = time.time()
    return (first or end) - begin, end - (first or end)


def run_and_kill(
    command: list[str | Path], run: Path, options: argparse.Namespace, start_up: float, training: float
) -> list[Kill]:
    """Runs a command and kills it, `options.kills` times."""
    rng = random.Random(options.seed)
    kills: list[Kill] = []
    stuck = 0
    while len(kills) < options.kills:
        before = newest_whole(run)
        left = training * (1 - before / options.steps)
        # Twice the even share, so that the average of a uniform moment is the even share.
        share = 2 * left / (options.kills - len(kills) + 1)
        early = rng.random() < 0.2
        delay = rng.uniform(0, start_up if early else share)
        kill = kill_once(command, run, delay, trained=not early, aim=not early and rng.random() < 0.6)
        if kill is None:
            print(f"the run reached its end before kill {len(kills) + 1}", flush=True)
            return kills
        kills.append(kill)
        print(
            f"kill {len(kills)}: after {kill.seconds:.2f} s, in {kill.where};"
            f" newest whole checkpoint: step {kill.step}",
            flush=True,
        )
        if kill.step < before:
            raise SystemExit(f"LOST: the newest whole checkpoint was of step {before} before this kill")
        stuck = stuck + 1 if kill.step == before else 0
        if stuck == _PATIENCE:
            raise SystemExit(
                f"GIVEN UP: no new checkpoint in {_PATIENCE} kills in a row; the run takes longer to start,"
                f" or between checkpoints, than it lives. Give more --steps or fewer --kills"
            )
    return kills


def kill_once(command: list[str | Path], run: Path, delay: float, *, trained: bool, aim: bool) -> Kill | None:
    """Runs a command and kills it.

    Args:
        command: But for the run folder.
        run: The run folder.
        delay: Seconds before the kill.
        trained: Count them from the process's first checkpoint, not from its start.
        aim: Then wait for a save to begin, at most three seconds, and kill within it.

    Returns:
        What the kill hit; None where the run reached its end first.
    """
    rubbish = half_written(run)
    process, begin = start(command, run)
    while trained and not has_trained(run, begin) and process.poll() is None:
        time.sleep(0.005)
    moment = time.time() + delay
    while time.time() < moment and process.poll() is None:
        time.sleep(0.005)
    deadline = time.time() + 3
    while aim and not half_written(run) - rubbish and time.time() < deadline and process.poll() is None:
        pass  # a save of a tiny model takes milliseconds
    seconds = time.time() - begin
    process.kill()
    if process.wait() == 0:
        return None
    if process.returncode > 0:
        raise SystemExit(f"the run in {run} ended with status {process.returncode}; see {log_path(run)}")
    # The process is dead, so what lies there now is what it was at.
    where = "a save" if half_written(run) - rubbish else "training" if has_trained(run, begin) else "start-up"
    return Kill(where, seconds, newest_whole(run))


def start(command: list[str | Path], run: Path) -> tuple[subprocess.Popen[bytes], float]:
    """Starts a command; returns the process and when that was."""
    with log_path(run).open("ab") as log:
        return subprocess.Popen([*command, run], stdout=log, stderr=log, env=environment()), time.time()


def log_path(run: Path) -> Path:
    """Where the output of a run's processes goes."""
    return run.with_name(f"{run.name}.log")


def half_written(run: Path) -> set[tuple[str, int]]:
    """What saves have begun and not ended, by name and time of the last change."""
    found = set()
    for path in (run / "checkpoints").glob(".*"):
        try:
            found.add((path.name, path.stat().st_ctime_ns))
        except OSError:
            continue  # gone meanwhile
    return found


def has_trained(run: Path, begin: float) -> bool:
    """Whether a process that started at `begin` has saved a checkpoint."""
    times = []
    for path in checkpoint_paths(run / "checkpoints"):
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue  # rotated away meanwhile
    return max(times, default=0.0) > begin


def newest_whole(run: Path) -> int:
    """The step of the newest checkpoint whose every byte is right, 0 without one."""
    for path in reversed(checkpoint_paths(run / "checkpoints")):
        try:
            return int(verified_manifest(path)["step"])
        except CheckpointError:
            continue
    return 0


def differing_tensors(whole: Path, killed: Path) -> tuple[list[str], list[str]]:
    """Names of all tensors in the last checkpoints of two runs, and of those that differ."""
    import tensorflow as tf

    readers = []
    for run in (whole, killed):
        last = [path for path in checkpoint_paths(run / "checkpoints") if looks_whole(path)][-1]
        print(f"  {run.name}: last checkpoint of step {checkpoint_step(last)}")
        readers.append(tf.train.load_checkpoint(str(last / "variables")))
    types = [reader.get_variable_to_dtype_map() for reader in readers]
    names = sorted({*types[0], *types[1]})

    def bits(side: int, name: str) -> tuple[Any, ...]:
        if name not in types[side]:
            return ()
        value = readers[side].get_tensor(name)
        return (types[side][name], value.shape, value.tobytes())

    return names, [name for name in names if bits(0, name) != bits(1, name)]


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run, without what the clock decides."""
    lines = read_metrics(run / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in TIMED} for line in lines]


def last_step(run: Path) -> int:
    """The last step a run has logged, 0 where it has none."""
    return max((line["step"] for line in read_metrics(run / "metrics.jsonl")), default=0)


def environment() -> dict[str, str]:
    """This process's, with a quiet TensorFlow."""
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}


def tiny_config(folder: Path) -> Path:
    """Writes text and the config of a model that trains in seconds."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(1, 8))) for _ in range(100)]
    text = "\n\n".join(" ".join(rng.choices(words, k=30)) for _ in range(60))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    path = folder / "resume.yaml"
    path.write_text(_CONFIG.format(text=folder / "text.txt"), encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
