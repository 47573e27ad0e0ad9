"""Added tokens, special names in trusted texts, and Unicode's forms: offline, in the graph and in the library."""

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from hard_texts import HARD_CASES, random_texts

from tests.marks import mostly_slow
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


@pytest.mark.parametrize("normalized", mostly_slow([False, True], [True]))
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


def bert(folder, words):
    """The library's BERT of ten tokens, with words that were added to it, read from its file."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "co", "##vi", "##d", "a"]
    model = tokenizers.models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]")
    library = tokenizers.Tokenizer(model)
    library.normalizer = tokenizers.normalizers.BertNormalizer()
    library.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    library.decoder = tokenizers.decoders.WordPiece()
    library.add_special_tokens(names[:5])
    library.add_tokens(words)
    folder.mkdir(exist_ok=True)
    library.save(str(folder / "tokenizer.json"))
    library.encode_special_tokens = True
    return read_tokenizer(folder), library


def same_as(library, tokenizer, given):
    expected = [
        row.ids for row in library.encode_batch(list(map(repair_text, given)), add_special_tokens=False)
    ]
    assert [ids.tolist() for ids in tokenizer.encode_batch(given)] == expected
    travelled = pickle.loads(pickle.dumps(tokenizer))
    assert [ids.tolist() for ids in travelled.encode_batch(given)] == expected
    graph = tokenizer.in_graph()
    assert graph.encode(tf.constant(np.array(given, dtype=object))).to_list() == expected
    rng = random.Random(0)
    ids = [*expected, *([rng.randrange(tokenizer.vocab_size) for _ in range(5)] for _ in range(200))]
    texts = library.decode_batch(ids)
    assert [tokenizer.decode(row) for row in ids] == texts
    ragged = tf.ragged.constant(ids, tf.int32, row_splits_dtype=tf.int64)
    assert [text.decode() for text in graph.decode(ragged).numpy()] == texts


def test_a_word_is_added_to_bert(tmp_path):
    tokenizer, _ = bert(tmp_path / "it", ["covid"])
    assert tokenizer.encode("a covid a") == [8, 9, 8] and tokenizer.encode("COVIDa") == [9, 8]
    assert tokenizer.encode("co vi co covi") == [5, 1, 5, 5, 6] and tokenizer.decode([8, 9]) == "a covid"
    tokenizer.save(tmp_path / "saved")
    assert read_tokenizer(tmp_path / "saved").encode("a covid") == [8, 9]
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    assert library.encode("a covid").ids == [8, 9] == library.encode("a Covid").ids


def test_words_added_to_bert_are_found_as_the_library_finds_them(tmp_path):
    word = tokenizers.AddedToken
    words = [
        word("Covid", normalized=False),
        word("co", single_word=True),
        word("New York", lstrip=True, rstrip=True),
        word("\u00c9a", normalized=True),
        word("covid", normalized=True, single_word=True),
    ]
    tokenizer, library = bert(tmp_path / "it", words)
    rng = random.Random(1)
    parts = [
        "covid",
        "Covid",
        "COVID",
        "co",
        " ",
        "new york",
        "New York",
        "\u00e9a",
        "\u00c9a",
        "a",
        "_",
        "[SEP]",
        "d",
    ]
    given = ["".join(rng.choices(parts, k=rng.randrange(8))).encode() for _ in range(800)]
    same_as(library, tokenizer, [*given, *HARD_CASES])


def test_words_added_to_byte_level_bpe_are_decoded_as_the_library_decodes_them(tmp_path):
    folder = Path(__file__).parent / "goldens" / "gpt2"
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.encode_special_tokens = True
    tokenizer = read_tokenizer(folder)
    given = [
        b"the covid New York",
        "Caf\u00e9 caf\u00e9 covid<|endoftext|>".encode(),
        b"covidthe  New York\n",
    ]
    same_as(library, tokenizer, [*given, *HARD_CASES])
