"""Added tokens, special names in trusted texts, and Unicode's forms: offline, in the graph and in the library."""

import random

import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from hard_texts import HARD_CASES, random_texts

from tfllm.tokenizers import ByteBPETokenizer, ByteTokenizer, TokenizerError, read_tokenizer
from tfllm.tokenizers.added_token import AddedToken
from tfllm.tokenizers.repair import repair_text

PIECES = [
    "<tool_call>",
    "the",
    " the ",
    "<|eos|>",
    "<|e",
    "  ",
    " ",
    "🤗",
    "`",
    "e\u0301",
    "\u1fef",
    "x",
    "_",
    "é",
]
PIECES += ["\U000105d2\u0307", "\u07fd", "a\u0301\u07fd\u0327", "\u3000", "\n"]


def texts():
    rng = random.Random(0)
    mixed = ["".join(rng.choices(PIECES, k=rng.randrange(9))).encode() for _ in range(1500)]
    return mixed + HARD_CASES + random_texts(1000, seed=11)


def added(first_id, normalized):
    return [
        AddedToken("<tool_call>", first_id, special=False, normalized=normalized),
        AddedToken("<|e", first_id + 1, special=False, lstrip=True),
        AddedToken("the", first_id + 2, special=False, single_word=True, normalized=normalized),
        AddedToken("  ", first_id + 3, special=False, rstrip=True, normalized=normalized),
        AddedToken("\u1fef", first_id + 4, special=False, normalized=normalized),
        AddedToken("🤗", first_id + 5, special=False),
    ]


@pytest.fixture(
    params=[
        ("gpt2", {}),
        ("gpt2", {"add_prefix_space": True}),
        ("qwen2", {"nfc": True}),
        ("llama3", {"nfc": True}),
    ],
    ids=["plain", "prefix space", "qwen2 nfc", "llama3 nfc"],
)
def rules(request):
    return {"split": request.param[0], **request.param[1]}


@pytest.mark.parametrize("normalized", [False, True])
def test_they_are_cut_out_as_the_library_does(byte_bpe, rules, normalized, tmp_path):
    roles = {role: byte_bpe.roles[role] for role in ("bos_token", "eos_token", "pad_token")}
    tokenizer = ByteBPETokenizer(
        {token: i for token, i in byte_bpe.vocab.items() if token not in byte_bpe.special_tokens},
        byte_bpe.merges,
        special_tokens=byte_bpe.special_tokens,
        added_tokens=added(byte_bpe.vocab_size + 2, normalized),
        **roles,
        **rules,
    )
    tokenizer.save(tmp_path)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    hard = texts()
    trusted = [repair_text(text) for text in hard]
    expected = [library.encode(text, add_special_tokens=False) for text in trusted]
    for text, encoding in zip(trusted, expected, strict=True):
        assert tokenizer.encode_with_offsets(text) == (encoding.ids, encoding.offsets)
    assert tokenizer.encode_with_special("a<|eos|>")[-1] == tokenizer.eos_id

    library.encode_special_tokens = True
    expected = [library.encode(text, add_special_tokens=False).ids for text in trusted]
    offline = [ids.tolist() for ids in tokenizer.encode_batch(hard)]
    assert offline == expected
    large = tokenizer.encode_batch([*hard, "x the " * 20_000])
    assert [ids.tolist() for ids in large[:-1]] == expected
    graph = tokenizer.in_graph()
    found = graph.encode(tf.constant(np.array(hard, dtype=object)))
    assert found.to_list() == expected
    assert any(byte_bpe.vocab_size + 4 in ids for ids in expected)  # the word was there
    assert graph.decode(found).numpy().tolist() == [tokenizer.decode(ids).encode() for ids in expected]
    again = read_tokenizer(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint and again.added_tokens == tokenizer.added_tokens


def test_special_names_stand_for_their_tokens_in_trusted_texts(tokenizer):
    text = f"a{tokenizer.eos_token} é{tokenizer.eos_token}"
    ids, places = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode_with_special(text.encode()) and len(ids) == len(places)
    assert ids.count(tokenizer.eos_id) == 2 and ids[-1] == tokenizer.eos_id
    assert tokenizer.decode(ids) == "a é" and tokenizer.decode(ids, skip_special_tokens=False) == text
    name = len(tokenizer.eos_token)
    assert places[1] == (1, 1 + name) and places[-1] == (len(text) - name, len(text))
    assert tokenizer.eos_id not in tokenizer.encode(text)


def test_what_stands_around_texts_and_the_chat_template_come_back(tmp_path):
    tokenizer = ByteTokenizer(extra_special_tokens=["<|user|>"])
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids, tokenizer.separator_ids) == ((256,), (), ())
    assert tokenizer.unk_id is None and tokenizer.mask_id is None
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save(tmp_path)
    again = read_tokenizer(tmp_path)
    assert (again.prefix_ids, again.chat_template) == ((256,), "{{ messages }}")
    assert again.in_graph().prefix_ids == (256,)


def test_a_template_in_a_file_of_its_own(tmp_path):
    ByteTokenizer().save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("from a file")
    assert read_tokenizer(tmp_path).chat_template == "from a file"


def test_a_special_name_that_is_one_word_is_refused_where_words_stay_whole(byte_bpe):
    with pytest.raises(TokenizerError, match="special token 'PAD' must not be a word of the text"):
        ByteBPETokenizer(
            byte_bpe.vocab,
            byte_bpe.merges,
            special_tokens={**byte_bpe.special_tokens, "PAD": byte_bpe.vocab_size},
            bos_token="PAD",
            eos_token="PAD",
            pad_token="PAD",
            ignore_merges=True,
        )
