"""`python -m tfllm` is the command `tfllm`."""

import subprocess
import sys
from pathlib import Path

import pytest

import tfllm
from tfllm.commands.main import COMMANDS

ROOT = Path(__file__).parents[2]


def module(*words, flags=()):
    command = [sys.executable, *flags, "-m", "tfllm", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("flags", [(), ("-O",), ("-OO",)], ids=["plain", "-O", "-OO"])
def test_it_says_its_version_and_its_commands(flags):
    assert module("--version", flags=flags)[:2] == (0, f"{tfllm.__version__}\n")
    status, out, _ = module("--help", flags=flags)
    assert status == 0
    assert out.startswith("usage: tfllm ")
    assert all(f"\n    {name}" in out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    status, out, _ = module(command, "--help")
    assert status == 0
    assert out.startswith(f"usage: tfllm {command} ")


def test_its_mistakes_have_the_commands_status():
    assert module()[0] == 2
    status, out, err = module("train", "nowhere.yaml")
    assert (status, out) == (2, "")
    assert err.startswith("tfllm train: 1 problem in nowhere.yaml:\n")
