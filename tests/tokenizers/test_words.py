"""Words found among tokens are the words of the text, whatever the tokenizer."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.tokenizers.hard_texts import random_texts
from tfllm.tokenizers import ByteBPETokenizer, ByteTokenizer, read_tokenizer
from tfllm.tokenizers.words import word_starts

TEXT = "The quick brown fox's 2nd naïve café, 中文字 isn't (really) ひらがな über-cool! 🤗🤗 a_b"


def boundaries(text):
    """Where words begin, in bytes of the text."""
    apart = r"[\u3040-\u30ff\u4e00-\u9fff_]|[^\W\u3040-\u30ff\u4e00-\u9fff_]+|[^\w\s]"
    return {len(text[: found.start()].encode()) for found in re.finditer(apart, text)}


GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture(
    scope="module", params=["byte", "byte_bpe", "small byte_bpe", "bert", "llama", "gemma", "t5", "marian"]
)
def tokenizer(request):
    texts = [TEXT] * 20 + random_texts(50)
    return {
        "byte": lambda: ByteTokenizer(),
        "byte_bpe": lambda: ByteBPETokenizer.train(texts, vocab_size=700),
        "small byte_bpe": lambda: ByteBPETokenizer.train(texts, vocab_size=270),
    }.get(request.param, lambda: read_tokenizer(GOLDENS / request.param))()


def test_words_begin_where_they_begin_in_the_text(tokenizer):
    """In the text as it is decoded: WordPiece lowers letters, and its pieces that go on have no blank before them."""
    ids = np.asarray(tokenizer.encode(TEXT))
    parts = [tokenizer.token_bytes[i] for i in ids]
    text = b"".join(parts).decode()
    starts, expected = word_starts(tokenizer.token_bytes, ids), boundaries(text)
    at = told = 0
    for token, start in zip(parts, starts, strict=True):
        inside = at + len(token) - len(token.lstrip(b" "))  # a blank belongs to the word behind it
        if inside < at + len(token):
            assert start == (inside in expected), token
            told += start
        at += len(token)
    assert at == len(text.encode()) and told > 15


def test_nothing_is_lost(tokenizer):
    for text in random_texts(200):
        ids = np.asarray(tokenizer.encode(text), np.int64)
        starts = word_starts(tokenizer.token_bytes, ids)
        assert starts.shape == ids.shape and (not len(ids) or starts[0])


def test_kinds_of_tokens():
    pieces = [
        b" the",
        b"the",
        b"##",
        b"s",
        b",",
        b" ,",
        "é".encode()[:1],
        "é".encode()[1:],
        "中".encode(),
        b" ",
        b"",
    ]

    def starts(*ids):
        return word_starts(pieces, np.array(ids, int)).astype(int).tolist()

    assert starts(0, 3, 0, 1) == [1, 0, 1, 0]
    assert starts(1, 4, 1, 5) == [1, 1, 1, 1]
    assert starts(1, 6, 7, 1) == [1, 0, 0, 0], "a character in two parts is inside a word"
    assert starts(8, 8, 1) == [1, 1, 1]
    assert starts(1, 9, 1) == [1, 1, 1]
    assert starts() == []
