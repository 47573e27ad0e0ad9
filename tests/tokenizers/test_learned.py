"""Tokenizers that are learned of texts: the same each time, framed as asked, and themselves after a trip to disk."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from hard_texts import HARD_CASES, random_texts

from tfllm.tokenizers import (
    ByteBPETokenizer,
    SentencePieceTokenizer,
    TokenizerError,
    WordPieceTokenizer,
    read_tokenizer,
)
from tfllm.tokenizers.learnable import LONGEST_LINE, LONGEST_WORD, learnable_lines, learnable_texts
from tfllm.tokenizers.repair import repair_text

SENTINELS = tuple(f"<extra_id_{i}>" for i in range(4))
MASK = {"other_roles": {"mask_token": "<|mask|>"}}
KINDS = {
    "byte_bpe": (ByteBPETokenizer.train, {"vocab_size": 400, **MASK}),
    "wordpiece": (WordPieceTokenizer.train, {"vocab_size": 400}),
    "wordpiece, cased": (WordPieceTokenizer.train, {"vocab_size": 400, "lowercase": False}),
    "unigram": (SentencePieceTokenizer.train, {"vocab_size": 400, **MASK}),
    "sentencepiece bpe": (SentencePieceTokenizer.train, {"vocab_size": 400, "algorithm": "bpe", **MASK}),
}
TEXTS = [
    "Der Hund läuft.\nThe dog runs, and runs; the dogs ran!",
    "中文字 and naïve Straße 2024",
    "low lower lowest",
] * 9


def learned(kind, texts=TEXTS, **more):
    train, arguments = KINDS[kind]
    return train(texts, **{**arguments, **more})


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(kind, training_text):
    return learned(kind, [training_text], frame="bos_eos", extra_special_tokens=SENTINELS)


def test_a_text_is_framed_as_the_models_of_its_kind_read_it(kind):
    for frame, before, behind in (("bos", 1, 0), ("bos_eos", 1, 1), ("eos", 0, 1)):
        made = learned(kind, frame=frame)
        bos, eos = (made.bos_id,), (made.eos_id,)
        assert (made.prefix_ids, made.suffix_ids) == (bos * before, eos * behind)
        assert made.separator_ids == (eos if behind else ())


def test_it_has_the_special_tokens_that_a_task_needs(tokenizer):
    assert tokenizer.mask_id is not None and tokenizer.pad_id is not None
    assert tokenizer.roles["cls_token"] == tokenizer.bos_token
    assert tokenizer.roles["sep_token"] == tokenizer.eos_token
    assert {
        tokenizer.mask_id,
        *(tokenizer.special_tokens[name] for name in SENTINELS),
    } <= tokenizer.special_ids
    assert len({tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.mask_id}) == 4
    assert tokenizer.vocab_size == 400
    for name in tokenizer.special_tokens:
        assert not tokenizer.special_ids & set(tokenizer.encode(f"a {name} b")) - {tokenizer.unk_id}


def test_it_is_itself_again_after_a_trip_to_disk(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = read_tokenizer(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint and type(again) is type(tokenizer)
    assert again.roles == tokenizer.roles and not again.unset_roles
    texts = [repair_text(text) for text in (*HARD_CASES, *random_texts(100))]
    for one, other in zip(again.encode_batch(texts), tokenizer.encode_batch(texts), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_graph_gives_the_same_ids(tokenizer):
    texts = [repair_text(text) for text in (*HARD_CASES, *random_texts(100))]
    graph = tokenizer.in_graph()
    ragged = graph.encode(tf.constant(np.array(texts, dtype=object), tf.string))
    for ids, expected in zip(ragged.to_list(), tokenizer.encode_batch(texts), strict=True):
        assert ids == expected.tolist()


def test_others_read_what_it_writes(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("The dog ran into 17 cities.", "naïve Straße"):
        ids = library.encode(text).ids
        assert ids == [*tokenizer.prefix_ids, *tokenizer.encode(text), *tokenizer.suffix_ids]


def test_sentencepiece_gives_every_text_back():
    for algorithm in ("unigram", "bpe"):
        made = SentencePieceTokenizer.train(TEXTS, vocab_size=350, algorithm=algorithm)
        for text in (*HARD_CASES, *random_texts(200)):
            text = repair_text(text)
            assert made.decode(made.encode(text)) == text
            assert made.unk_id not in made.encode(text)


def test_wordpiece_knows_every_common_character_and_no_rare_one():
    made = WordPieceTokenizer.train(["a b c"] * 50 + [chr(0x4E00 + i) for i in range(900)], vocab_size=200)
    assert made.vocab_size <= 200 and made.unk_id not in made.encode("abc cab")
    assert made.encode(chr(0x4E00 + 890)) == [made.unk_id]
    assert made.encode("Àb") == made.encode("ab")
    cased = WordPieceTokenizer.train(["Aa àb"] * 5, vocab_size=200, lowercase=False)
    assert cased.encode("A") != cased.encode("a") and cased.unk_id not in cased.encode("Aaàb")


def test_another_process_learns_the_same(kind):
    """Libraries walk through tables whose order differs from process to process."""
    train, arguments = KINDS[kind]
    lines = [
        "import json, sys, tfllm.tokenizers as tokenizers",
        "name, texts, arguments = json.loads(sys.argv[1])",
        "print(getattr(tokenizers, name).train(texts, **arguments).fingerprint)",
    ]
    asked = json.dumps([train.__self__.__name__, TEXTS, arguments])
    command = [sys.executable, "-c", "\n".join(lines), asked]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == learned(kind).fingerprint


def test_what_cannot_be_learned_is_said(kind):
    with pytest.raises(TokenizerError, match=r"vocab_size=\d+ must be at least \d+: .*; raise it"):
        learned(kind, vocab_size=100 if kind.startswith("wordpiece") else 258)
    if kind in ("unigram", "sentencepiece bpe"):
        with pytest.raises(TokenizerError, match="no text to learn pieces from"):
            learned(kind, texts=[])
    else:
        assert learned(kind, texts=[]).vocab_size < 300
    hard = learned(kind, texts=["a\ud800b", "", "\0 \u2585 " * 20, *TEXTS])
    assert len(hard.encode("The dog runs")) <= 7


def test_long_words_and_lines_cost_no_hours_and_lose_no_text():
    text = "q" * 300_000 + "\n" + "one two " * 5_000 + "\n\n end"
    [whole] = learnable_texts([text])
    assert max(map(len, whole.split())) == LONGEST_WORD and whole.replace("\n", "") == text.replace("\n", "")
    lines = list(learnable_lines([text]))
    assert max(map(len, lines)) <= LONGEST_LINE and "".join(lines) == text.replace("\n", "")
    assert {"one", "two", "end"} >= {word for line in lines for word in line.split() if word[0] != "q"}
    assert list(learnable_texts(["a b\nc"])) == ["a b\nc"] and list(learnable_lines(["\n", ""])) == []
