"""Large texts take another road than small ones; the ids are the same."""

import itertools
import pickle

import numpy as np
import pytest

from tests.tokenizers.hard_texts import HARD_CASES, random_texts
from tfllm.tokenizers import word_encoder
from tfllm.tokenizers.repair import repair_text
from tfllm.tokenizers.word_encoder import WordEncoder


@pytest.fixture
def encoder(byte_bpe):
    return WordEncoder(byte_bpe._new_library())


def assert_same(tokenizer, encoder, texts):
    texts = [repair_text(text) for text in texts]
    expected = tokenizer._library.encode_batch_fast(texts, add_special_tokens=False)
    for text, one, other in zip(texts, encoder.encode(texts), expected, strict=True):
        assert one.dtype == np.int32 and one.tolist() == other.ids, repr(text)


def test_hard_texts(byte_bpe, encoder):
    assert_same(byte_bpe, encoder, HARD_CASES + random_texts(4000))
    assert_same(byte_bpe, encoder, HARD_CASES)  # now that all words are known


def test_every_string_of_a_small_alphabet(byte_bpe, encoder):
    for alphabet in (" \n's1!", " \u00a0a中'l\u0301"):
        texts = ["".join(letters) for n in range(6) for letters in itertools.product(alphabet, repeat=n)]
        assert_same(byte_bpe, encoder, texts)


def test_every_ascii_character_between_others(byte_bpe, encoder):
    assert_same(byte_bpe, encoder, [f"a{chr(i)}b 1{chr(i)}{chr(i)} {chr(i)} x" for i in range(128)])


def test_every_code_point(byte_bpe, encoder):
    points = [chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000]
    texts = ["a".join(points[i : i + 4096]) for i in range(0, len(points), 4096)]
    assert_same(byte_bpe, encoder, texts[:16] + texts[16::8])  # all of the BMP, an eighth of the rest


def test_what_is_remembered_is_bounded(byte_bpe, encoder, monkeypatch):
    texts = [f"word{i} and word{i + 1}" for i in range(300)]
    monkeypatch.setattr(word_encoder, "_MOST_WORDS", 50)
    for text in texts:
        assert_same(byte_bpe, encoder, [text])
        assert len(encoder._known) < 60
    monkeypatch.setattr(word_encoder, "_MOST_WORDS", 10**6)
    monkeypatch.setattr(word_encoder, "_MOST_CHARACTERS", 500)
    for text in texts:
        assert_same(byte_bpe, encoder, [text * 3])
        assert sum(map(len, encoder._known)) < 600


def test_large_texts_take_it_and_it_travels_without_its_words(byte_bpe, training_text):
    small = [line for line in training_text.splitlines(keepends=True) if line]
    tokenizer = pickle.loads(pickle.dumps(byte_bpe))
    tokenizer._word_encoder = None  # another test may have had one made
    tokenizer.encode_batch(small[:50])
    assert tokenizer._word_encoder is None
    large = ["".join(small) * 4, *small]
    found = tokenizer.encode_batch(large)
    assert tokenizer._word_encoder._known
    for text, ids in zip(large[1:50], found[1:50], strict=True):
        assert ids.tolist() == byte_bpe.encode(text)
    assert tokenizer.decode(found[0]) == large[0]
    found[0][0] = 0  # as writable as other arrays
    again = pickle.loads(pickle.dumps(tokenizer))
    assert not again._word_encoder._known
    np.testing.assert_array_equal(again.encode_batch(large)[1], found[1])
