import json

import numpy as np
import pytest
import tokenizers
from hard_texts import HARD_CASES, random_texts

from tfllm.tokenizers import ByteBPETokenizer, TokenizerError, read_tokenizer
from tfllm.tokenizers.files.byte_bpe_files import read_byte_bpe
from tfllm.tokenizers.repair import repair_text
from tfllm.tokenizers.special_tokens import BOS, EOS, PAD
from tfllm.tokenizers.word_split import SPLITS

TEXT = ["low lower lowest newer wider " * 20]


def saved_json(tokenizer, folder):
    tokenizer.save(folder)
    return folder / "tokenizer.json"


@pytest.fixture
def small():
    return ByteBPETokenizer.train(TEXT, vocab_size=270)


def test_training_learns_the_vocabulary_asked_for(byte_bpe):
    assert byte_bpe.vocab_size == 600 == len(byte_bpe.merges) + 256 + 4
    assert byte_bpe.special_tokens == {"<|bos|>": 596, "<|eos|>": 597, "<|pad|>": 598, "<|user|>": 599}
    assert len(byte_bpe.encode(" return")) == 1


def test_training_stops_where_the_text_does():
    tokenizer = ByteBPETokenizer.train(["ab ab"], vocab_size=1000)
    assert tokenizer.vocab_size == 256 + 1 + 3
    assert tokenizer.encode("ab") == [256]


def test_training_on_nothing_leaves_bytes():
    tokenizer = ByteBPETokenizer.train([], vocab_size=300)
    assert tokenizer.vocab_size == 259
    assert tokenizer.decode(tokenizer.encode("é\0")) == "é\0"


def test_training_is_deterministic(training_text, byte_bpe):
    again = ByteBPETokenizer.train(iter([training_text]), vocab_size=600, extra_special_tokens=["<|user|>"])
    assert again.fingerprint == byte_bpe.fingerprint
    assert ByteBPETokenizer.train(TEXT, vocab_size=300).fingerprint != byte_bpe.fingerprint


def test_training_survives_lone_surrogates():
    tokenizer = ByteBPETokenizer.train(["a\ud800"] * 5, vocab_size=262)
    assert tokenizer.decode(tokenizer.encode("a\ud800")) == "a\ufffd"


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(TokenizerError, match="vocab_size=258 must be at least 259"):
        ByteBPETokenizer.train(TEXT, vocab_size=258)


def test_a_special_name_that_was_learned_is_refused():
    with pytest.raises(TokenizerError, match="special token 'low' must not be a token of the text"):
        ByteBPETokenizer.train(TEXT, vocab_size=280, pad_token="low")


def test_labels(byte_bpe):
    assert [byte_bpe.token_label(i) for i in byte_bpe.encode(" return\n")] == ["␣return", "⏎"]
    assert byte_bpe.token_label(byte_bpe.encode("🤗")[0]) == "\\xF0"
    assert byte_bpe.token_label(byte_bpe.pad_id) == "<|pad|>"


@pytest.mark.parametrize("name", ["byte_bpe", "gpt2"])
def test_the_library_reads_the_saved_file(name, request, tmp_path):
    tokenizer = request.getfixturevalue(name)
    library = tokenizers.Tokenizer.from_file(str(saved_json(tokenizer, tmp_path)))
    assert library.get_vocab_size() == tokenizer.vocab_size
    for name, token_id in tokenizer.special_tokens.items():
        assert library.token_to_id(name) == token_id
        assert library.encode(name, add_special_tokens=False).ids == [token_id]
    library.encode_special_tokens = True
    texts = HARD_CASES + random_texts(2000, seed=2)
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert library.encode(repair_text(text), add_special_tokens=False).ids == ids.tolist()


def test_gpt2(gpt2):
    assert gpt2.vocab_size == 50257
    assert gpt2.bos_id == gpt2.eos_id == gpt2.pad_id == 50256
    # The ids that GPT-2's own encoder gives.
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode("<|endoftext|>") == [27, 91, 437, 1659, 5239, 91, 29]
    assert [gpt2.token_label(i) for i in gpt2.encode("Hello the\n")] == ["Hello", "␣the", "⏎"]


def test_a_file_without_the_usual_special_tokens_needs_their_names(small, tmp_path):
    names = {"bos_token": "<begin>", "eos_token": "<end>", "pad_token": "<fill>"}
    path = saved_json(ByteBPETokenizer.train(TEXT, vocab_size=270, **names), tmp_path)
    with pytest.raises(TokenizerError, match="bos_token and eos_token must be in the vocabulary"):
        read_byte_bpe(path)
    assert read_byte_bpe(path, bos_token="<begin>", eos_token="<end>").pad_token == "<end>"
    # A name that is a token of the text cannot be special.
    with pytest.raises(TokenizerError, match="special token 'low' must not be a token of the text"):
        read_byte_bpe(path, bos_token="low")


DIGITS_APART = {
    "type": "Sequence",
    "pretokenizers": [{"type": "Digits", "individual_digits": False}, {"type": "ByteLevel"}],
}


def change(content, path, value):
    *parents, last = path.split(".")
    for key in parents:
        content = content[key]
    content[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.type", "WordLevel", "model.type='WordLevel' must be"),
        ("model", None, "model.type='None' must be"),
        ("model.dropout", 0.1, "model.dropout=0.1 must be None"),
        ("model.end_of_word_suffix", "</w>", "model.end_of_word_suffix='</w>' must be None"),
        ("model.vocab", {"a": 0}, "must hold the characters of printable ASCII"),
        ("model.vocab", [], "must be well formed"),
        ("model.merges", [["l", "o", "w"]], "must be well formed"),
        ("model.merges", ["l q"], "merge 'l' 'q': 'lq' must be in the vocabulary"),
        ("normalizer", {"type": "NFKC"}, "normalizer=.* must be null or NFC"),
        ("pre_tokenizer", DIGITS_APART, "must be one of the splits gpt2, "),
        ("pre_tokenizer.use_regex", False, "must go with 256 bytes"),
        ("post_processor", {"type": "Mine"}, "post_processor.type='Mine' is not known"),
        ("post_processor", {"type": "TemplateProcessing"}, "post_processor=.* must be TemplateProcessing"),
        ("added_tokens", [{"content": "<|bos|>"}], "each added token must be an object"),
        ("added_tokens", [{"content": "<|bos|>", "id": -1}], "id -1 of .* must be an integer from 0 to"),
    ],
)
def test_another_kind_of_file_is_refused(small, tmp_path, path, value, message):
    file = saved_json(small, tmp_path)
    content = json.loads(file.read_text())
    change(content, path, value)
    file.write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=message):
        read_tokenizer(tmp_path)


def test_what_is_said_of_unknown_characters_is_no_matter_where_none_is(small, tmp_path):
    file = saved_json(small, tmp_path)
    content = json.loads(file.read_text())
    content["model"].update(unk_token="a", fuse_unk=True, byte_fallback=True)
    file.write_text(json.dumps(content))
    assert read_tokenizer(tmp_path).encode("low \U0001f917") == small.encode("low \U0001f917")
    del content["model"]["vocab"]["\u0143"]  # one byte
    file.write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=r"model.unk_token='a' must be None"):
        read_tokenizer(tmp_path)


def test_holes_between_ids_are_filled(small, tmp_path):
    vocab = {token: i + 5 * (i > 260) for token, i in small.vocab.items()}
    special = {name: vocab[name] for name in small.special_tokens}
    roles = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    tokenizer = ByteBPETokenizer(vocab, small.merges, special_tokens=special, **roles)
    assert tokenizer.vocab_size == 275 and tokenizer.bos_id == small.bos_id + 5
    assert tokenizer.encode("lower") == [i + 5 * (i > 260) for i in small.encode("lower")]
    assert tokenizer.decode([261, *tokenizer.encode("lower"), 265]) == "lower"
    tokenizer.save(tmp_path)
    assert read_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert library.encode(BOS, add_special_tokens=False).ids == [tokenizer.bos_id]


@pytest.mark.parametrize(
    ("token_id", "message"),
    [(3, "no other token's"), (-1, "must be from 0 on"), (10**8, "highest is 100000000")],
)
def test_ids_that_cannot_be_are_refused(small, token_id, message):
    roles = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    with pytest.raises(TokenizerError, match=message):
        ByteBPETokenizer(
            {**small.vocab, "Ġlow": token_id}, small.merges, special_tokens=small.special_tokens, **roles
        )


def test_vocab_and_merges_files(small, tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps(small.vocab))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in small.merges), ""]
    (tmp_path / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    read = read_byte_bpe(tmp_path / "vocab.json", tmp_path / "merges.txt")
    assert (read.vocab, read.merges, read.roles) == (small.vocab, small.merges, small.roles)
    assert read.prefix_ids == ()  # nothing says that bos stands before texts
    again = read_tokenizer(tmp_path)  # the two files are the whole folder
    assert again.fingerprint == read.fingerprint
    (tmp_path / "merges.txt").write_text("l o w\n")
    with pytest.raises(TokenizerError, match="each line must be two tokens"):
        read_byte_bpe(tmp_path / "vocab.json", tmp_path / "merges.txt")
    with pytest.raises(TokenizerError, match="must be a readable file"):
        read_byte_bpe(tmp_path / "vocab.json", tmp_path / "none.txt")


def test_batches_keep_their_order(gpt2):
    texts = [f"text number {i} " * (i % 7) for i in range(300)]
    for text, ids in zip(texts, gpt2.encode_batch(texts), strict=True):
        np.testing.assert_array_equal(ids, gpt2.encode(text))


@pytest.mark.parametrize("ignore_merges", [False, True])
@pytest.mark.parametrize("split", SPLITS)
def test_a_split_and_its_rule_come_back_from_the_file(split, ignore_merges, tmp_path, training_text):
    learned = ByteBPETokenizer.train([training_text], vocab_size=500, split=split)
    roles = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    tokenizer = ByteBPETokenizer(
        learned.vocab,
        learned.merges[:-80],
        special_tokens=learned.special_tokens,
        split=split,
        ignore_merges=ignore_merges,
        **roles,
    )
    tokenizer.save(tmp_path)
    again = read_tokenizer(tmp_path)
    assert (again.rules.split.name, again.rules.ignore_merges) == (split, ignore_merges)
    assert again.fingerprint == tokenizer.fingerprint
    texts = [*HARD_CASES, training_text[:3000]]
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    library.encode_special_tokens = True
    repaired = [repair_text(text) for text in texts]
    expected = [e.ids for e in library.encode_batch(repaired, add_special_tokens=False)]
    assert [ids.tolist() for ids in again.encode_batch(texts)] == expected
    # Tokens that nothing merges to any more are there as words, or not at all.
    assert any(set(ids) - set(range(500 - 3 - 80)) for ids in expected) == ignore_merges


def test_fingerprints_tell_splits_apart(byte_bpe):
    roles = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    made = [
        ByteBPETokenizer(
            byte_bpe.vocab, byte_bpe.merges, special_tokens=byte_bpe.special_tokens, **roles, **rule
        )
        for rule in ({}, {"split": "llama3"}, {"split": "qwen2"}, {"ignore_merges": True})
    ]
    assert len({tokenizer.fingerprint for tokenizer in made}) == 4
    assert made[0].fingerprint == byte_bpe.fingerprint


def test_an_unknown_split_is_refused():
    with pytest.raises(
        TokenizerError, match="split='words' is not known; use one of gpt2, smollm, llama3, qwen2"
    ):
        ByteBPETokenizer.train(["text"], vocab_size=300, split="words")
