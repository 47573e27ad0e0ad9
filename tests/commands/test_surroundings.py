"""Commands where the system is not as one would like it: streams, encodings, home folders."""

import io
import os
import pwd
import subprocess
import sys

import pytest

from tfllm.commands.main import COMMANDS
from tfllm.commands.terminal import as_text, lasting_streams, say
from tfllm.config import ConfigError
from tfllm.data.store import default_cache_dir


def python(*words, shell="", **environment):
    """Runs the command line in a new process, with shell redirections -> exit status, output, errors."""
    command = [sys.executable, *words]
    done = subprocess.run(
        ["bash", "-c", f'"$@" {shell}', "bash", *command],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("flag", ["-O", "-OO"])
def test_help_needs_no_docstrings(flag):
    status, out, _ = python(flag, "-m", "tfllm.commands.main", "--help")
    assert status == 0
    for name, module in COMMANDS.items():
        assert name in out and module.SUMMARY.split()[0] in out


@pytest.mark.parametrize(
    ("shell", "statuses"),
    [(">&-", {0}), (">&- 2>&-", {0}), ("| true; exit ${PIPESTATUS[0]}", {0}), ("0<&-", {0})],
)
def test_help_to_nobody(shell, statuses):
    assert python("-m", "tfllm.commands.main", "train", "--help", shell=shell)[0] in statuses


def test_a_mistake_is_told_with_closed_streams_and_has_its_status():
    status, _, err = python("-m", "tfllm.commands.main", "train", "nowhere.yaml", shell=">&-")
    assert (status, "nowhere.yaml" in err) == (2, True)
    assert python("-m", "tfllm.commands.main", "train", "nowhere.yaml", shell=">&- 2>&-")[0] == 2
    assert python("-m", "tfllm.commands.main", "train", "nowhere.yaml", shell="2>/dev/full")[0] == 2


def test_text_that_the_output_cannot_say_is_escaped(tfllm, run_dir, monkeypatch):
    raw = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
        words = ("generate", run_dir, "bané│\udcc3", "--no-jit", "--max-new-tokens", 1, "--temperature", 0)
        status, _, err = tfllm(*words)
        sys.stdout.flush()
        assert (status, err) == (0, "")
        assert raw.getvalue().startswith(b"ban\\xe9\\u2502\\udcc3")


def test_an_answer_that_is_lost_has_a_status(tfllm, run_dir, monkeypatch):
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        status, _, err = tfllm("generate", run_dir, "ban", "--no-jit", "--max-new-tokens", 1)
    assert (status, err) == (1, "tfllm generate: cannot use: No space left on device\n")


def test_what_lies_on_disk_needs_no_reader(tfllm, run_dir, tmp_path, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as broken, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", broken)
        print("a line before", flush=False)
        status, _, err = tfllm("convert", run_dir, tmp_path / "hf", "--to", "huggingface")
    assert (status, err) == (0, "")
    assert (tmp_path / "hf" / "model.safetensors").exists()


def test_say_and_lasting_streams_stand_a_closed_stream(monkeypatch):
    closed = io.StringIO()
    closed.close()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", closed)
        patch.setattr(sys, "stdout", None)
        say("a line")
        with lasting_streams(output=True):
            print("to nobody", flush=True)
        assert sys.stdout is None and sys.stderr is closed


def test_words_are_utf_8_whatever_the_locale_says():
    assert as_text("é│") == "é│"
    assert as_text("\udcff") == "\udcff", "no text in any case"
    status, _, err = python(
        "-m",
        "tfllm.commands.main",
        "train",
        "nowhere.yaml",
        "generation.prompts=[é]",
        LC_ALL="C",
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
    )
    assert (status, "is not a YAML value" in err) == (2, False)


@pytest.fixture
def homeless(monkeypatch):
    """A container that runs as a user whom the system does not know."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("TFLLM_CACHE", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_without_a_home_the_cache_is_asked_for(homeless, tfllm, config_file, tmp_path, monkeypatch):
    status, _, err = tfllm("prepare", config_file)
    assert status == 2
    assert "data.cache_dir=~/.cache/tfllm begins at a home folder that the system does not know" in err
    assert "set TFLLM_CACHE" in err
    monkeypatch.setenv("TFLLM_CACHE", str(tmp_path / "cache"))
    assert tfllm("prepare", config_file)[0] == 0
    assert (tmp_path / "cache" / "rows").is_dir()
    assert tfllm("train", config_file, "--run-dir=~/run")[0] == 2
    assert tfllm("evaluate", "~/run")[0] == 1


def test_a_cache_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TFLLM_CACHE", "~/rows")
    assert default_cache_dir() == tmp_path / "rows"
    monkeypatch.setenv("TFLLM_CACHE", "~nobody_of_that_name/rows")
    with pytest.raises(ConfigError, match="TFLLM_CACHE=~nobody_of_that_name/rows begins at a home folder"):
        default_cache_dir()


def test_a_run_folder_may_begin_at_home(tfllm, config_file, tmp_path, monkeypatch):
    (tmp_path / "run").write_text("in the way")
    monkeypatch.setenv("HOME", str(tmp_path))
    status, _, err = tfllm("train", config_file, "--run-dir=~/run")
    assert (status, str(tmp_path / "run") in err) == (1, True)
