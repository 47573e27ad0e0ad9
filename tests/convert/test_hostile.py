"""Spoiled files: one of our own errors each, of bounded length, and never a model."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

import tfllm
from scripts.checks.hostile import CASES
from scripts.checks.small_gguf import gguf_bytes, gguf_metadata, gguf_tensors
from scripts.checks.small_llama import write_folder
from tfllm.commands.main import USER_ERRORS
from tfllm.convert.errors import ConvertError
from tfllm.convert.gguf_file import GgufFile
from tfllm.convert.gguf_header import GgufHeader
from tfllm.json_text import parse_json, read_json
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.files.gguf import read_gguf_tokenizer

ROOT = Path(__file__).parents[2]
# Files of tens of megabytes, or seconds of work: `python -m scripts.checks.hostile` measures them.
LARGE = ("10^5", "10^6", "10^7", "200 MB", "3 * 10^7", "4 * 10^6")


def load(path):
    return tfllm.load(path, jit_compile=False, notify=lambda line: None)


def test_the_whole_checkpoint_is_loaded(tmp_path):
    lm = load(write_folder(tmp_path / "folder"))
    assert lm.tokenizer.encode("th") == [256]
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(gguf_metadata(), gguf_tensors()))
    assert load(path).tokenizer.encode("th") == [256]


@pytest.mark.parametrize("name", [name for name in CASES if not any(word in name for word in LARGE)])
def test_a_spoiled_file_is_refused_in_our_own_words(name, tmp_path):
    path = CASES[name](tmp_path / "checkpoint")
    with pytest.raises(USER_ERRORS) as caught:
        load(path)
    assert 0 < len(str(caught.value)) < 2000


@pytest.mark.slow
def test_all_of_them_are_refused_or_read_in_bounded_time_and_memory():
    command = [sys.executable, "-m", "scripts.checks.hostile"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all are as they should be\n")
    assert done.stdout.count("\n") == len(CASES) + 3


def read_all(path):
    """All that can be read of a GGUF file without a model."""
    file = GgufFile(path)
    file.config()
    for name in file.shapes:
        file.read(name)
    read_gguf_tokenizer(file.metadata, file.list_of, path)


def test_a_gguf_file_cut_at_any_byte_is_refused(tmp_path):
    small = {key: value for key, value in gguf_metadata().items() if not key.startswith("tokenizer")}
    norms = [(name, array) for name, array in gguf_tensors() if array.ndim == 1]
    data = gguf_bytes(small, norms)
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    assert len(GgufHeader(path).tensors) == len(norms)
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(ConvertError, match="is not a whole GGUF file"):
            GgufHeader(path)


@pytest.mark.parametrize("seed", range(4))
def test_bytes_of_a_gguf_file_that_are_flipped_never_surprise(seed, tmp_path):
    rng, whole = random.Random(seed), gguf_bytes(gguf_metadata(), gguf_tensors())
    header = whole.index(b"output_norm") + 1000
    path, refused = tmp_path / "m.gguf", 0
    for _ in range(100):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 2, 8))):
            data[rng.randrange(header)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        path.write_bytes(data)
        try:
            read_all(path)
        except (ConvertError, TokenizerError) as error:
            refused += 1
            assert len(str(error)) < 2000
    assert refused > 20


def test_json_within_bounds():
    assert parse_json(b'{"a": [1]}') == {"a": [1]}
    for text, words in (
        (b"[" * 200_000, "nested deeper than 64"),
        (b"[" * 66 + b"]" * 66, "nested deeper than 64"),
        (b'{"a":' * 66 + b"1" + b"}" * 66, "nested deeper than 64"),
        (b"[" * 3, "Expecting value"),
        (b"\xff\xfe", "decode"),
        (b"9" * 10**5, "digits"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_json(text)
    assert parse_json(b"[" * 64 + b"]" * 64)


def test_json_of_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")
