"""The scripts that check exactness from outside, in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["check_resume.py", "--steps", "200", "--kills", "3", "--seed", "1"],
        ["check_replicas.py", "--steps", "10"],
        ["check_workers.py", "--steps", "20"],
        ["check_exactness.py", "--steps", "10", "--precisions", "float32"],
    ],
    ids=lambda words: words[0],
)
def test_the_check_finds_no_difference(words):
    script, *options = words
    done = subprocess.run([sys.executable, SCRIPTS / script, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nEQUAL" in done.stdout
