"""The benchmarks run, on shapes too small to say anything."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.benchmarks.packing import _chunks

ROOT = Path(__file__).parents[2]
TINY = ["--layers", "1", "--width", "16", "--heads", "2", "--vocab", "300", "--seq-len", "16", "--batch", "2"]


def run(benchmark, *options):
    command = [sys.executable, "-m", f"scripts.benchmarks.{benchmark}", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {line.rpartition("  ")[0].split("  ")[0]: line.split() for line in done.stdout.splitlines()}


@pytest.mark.slow
def test_training_is_compared_with_keras_hub_from_the_same_loss():
    lines = run("training", *TINY, "--steps", "2", "--rounds", "2")
    first = {name: float(lines[name][-2]) for name in ("tfllm", "keras_hub")}
    assert first["tfllm"] == pytest.approx(5.704, abs=0.02)  # ln 300: nothing is known yet
    assert first["keras_hub"] == pytest.approx(5.704, abs=0.02)
    assert all(float(lines[name][-1]) < first[name] for name in first)


@pytest.mark.slow
def test_packed_rows_hold_text_almost_alone(tmp_path):
    text = tmp_path / "texts.txt"
    text.write_text("\n".join(f"The {i}th door opens when the {i + 1}th one is shut." for i in range(900)))
    lines = run("packing", "--text", str(text), "--vocab", "300", "--rounds", "1")
    numbers = lines["tfllm, packed"]
    assert float(numbers[5].rstrip("%")) < 1


@pytest.mark.slow
def test_loading_is_measured():
    lines = run("load", "--size", "tiny", "--rounds", "2")
    seconds, least, most, before, peak, added = map(float, lines["tfllm"][1:])
    assert 0 < least <= seconds <= most
    assert peak - before == pytest.approx(added, abs=0.011)


@pytest.mark.parametrize("length", [2, 3, 5, 6, 7])
def test_the_parts_of_a_text_hold_every_target_once(length):
    ids = list(range(6))
    chunks = _chunks(ids, length)
    assert max(map(len, chunks)) <= length
    assert [target for chunk in chunks for target in chunk[1:]] == ids[1:]
