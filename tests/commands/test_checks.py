"""The checks of exactness from outside, in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Those that hold all ways to spread a run between them.
LAYOUTS = ("2 workers x 2 microbatches", "stopped, continued on 2 devices", "packed")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["resume", "--steps", "120", "--kills", "2", "--seed", "1"],
        ["replicas", "--steps", "10"],
        ["workers", "--steps", "20"],
        ["tasks", "--steps", "6", "--tasks", "regression"],
        # Without XLA, which two thirds of the time would go into; tests/training compares compiled steps.
        ["exactness", "--steps", "10", "--no-xla", "--precisions", "float32", "--layouts", *LAYOUTS],
    ],
    ids=lambda words: words[0],
)
def test_the_check_finds_no_difference(words):
    check, *options = words
    command = [sys.executable, "-m", f"scripts.checks.{check}", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nEQUAL" in done.stdout
