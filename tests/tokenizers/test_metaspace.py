"""Vocabularies that write blanks as U+2581: offline, in the graph and in the `tokenizers` library."""

import base64
import io
import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tensorflow as tf
from make_goldens import FRAMED, texts
from reference import Reference, hard_texts
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tests.marks import mostly_slow
from tfllm.tokenizers import TokenizerError, read_tokenizer
from tfllm.tokenizers.sentencepiece_model import parsed_model

GOLDENS = Path(__file__).parent / "goldens"
BLANK = "\u2581"
WORDS = [
    AddedToken("New", normalized=True),
    AddedToken("covid", normalized=False),
    AddedToken("York", normalized=True, lstrip=True, rstrip=True),
    AddedToken("the", normalized=False, single_word=True),
    AddedToken("\u00c9t\u00e9", normalized=True),
]


def llama(scheme, *, split=False, unknown=None, prepend=False, words=(WORDS[0],)):
    """The vocabulary of a Llama in small: 3 special tokens, 256 bytes, and pieces from 259 on."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [BLANK, BLANK * 2, BLANK + "H", "i", "H", "N", "e", "w", "x"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [(BLANK, BLANK), (BLANK, "H")]
    library = Tokenizer(
        models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True, dropout=None)
    )
    if prepend:
        library.normalizer = normalizers.Sequence(
            [normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)]
        )
    else:
        library.pre_tokenizer = pre_tokenizers.Metaspace(BLANK, scheme, split)
    library.decoder = decoders.Metaspace(BLANK, scheme, split)
    if not split:
        steps = [
            decoders.Replace(BLANK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
        library.decoder = decoders.Sequence(steps)
    library.add_special_tokens(pieces[:3])
    library.add_tokens(list(words))
    return json.loads(library.to_str())


def golden(name, **changes):
    content = json.loads((GOLDENS / name / "tokenizer.json").read_text(encoding="utf-8"))
    return {**content, **changes}


def charsmap():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a text of few words"] * 9),
        model_writer=model,
        vocab_size=16,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    table = parsed_model("model", model.getvalue()).normalizer_spec.precompiled_charsmap
    return json.loads(normalizers.Precompiled(table).__getstate__())


def albert():
    quotes = [normalizers.Replace(pair, '"') for pair in ("``", "''")]
    rest = [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Strip()]
    steps = [json.loads(step.__getstate__()) for step in (*quotes, *rest)]
    blanks = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    return golden("t5", normalizer={"type": "Sequence", "normalizers": [*steps, charsmap(), blanks]})


def deberta():
    spaces = {"type": "Replace", "pattern": {"Regex": r"\s{2,}|[\n\r\t]"}, "content": " "}
    steps = [spaces, {"type": "NFC"}, {"type": "Strip", "strip_left": False, "strip_right": True}]
    metaspace = {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "always", "split": True}
    return golden("t5", normalizer={"type": "Sequence", "normalizers": steps}, pre_tokenizer=metaspace)


def with_words(content):
    library = Tokenizer.from_str(json.dumps(content))
    library.add_tokens(WORDS)
    return json.loads(library.to_str())


KINDS = {
    "first": lambda: llama("first"),
    "always, unknown": lambda: llama("always", unknown="<unk>", words=WORDS),
    "never": lambda: llama("never", words=WORDS),
    "first, split": lambda: llama("first", split=True, unknown="<unk>"),
    "always, split": lambda: llama("always", split=True, words=WORDS),
    "prepend": lambda: llama("always", prepend=True, unknown="<unk>", words=WORDS),
    "without a decoder": lambda: {**llama("always"), "decoder": None},
    "llama, retrained": lambda: golden("llama"),
    "gemma, retrained": lambda: with_words(golden("gemma")),
    "t5, retrained": lambda: with_words(golden("t5")),
    "t5, precompiled": lambda: golden("t5", normalizer=charsmap()),
    "albert": albert,
    "deberta": deberta,
}


def read(folder, content, **files):
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    for name, more in files.items():
        (folder / f"{name}.json").write_text(json.dumps(more))
    return read_tokenizer(folder)


def strings(texts):
    return tf.constant(np.array(texts, dtype=object), tf.string, shape=[len(texts)])


def any_ids(tokenizer, count=300):
    """Rows of random ids, half of them mostly bytes, where there are such."""
    rng = random.Random(0)
    runs = tokenizer.vocabulary.byte_runs
    few = sorted(runs.ids) if runs else range(tokenizer.vocab_size)
    sources = [few if i % 2 and rng.random() < 0.8 else range(tokenizer.vocab_size) for i in range(count)]
    return [rng.choices(source, k=rng.randrange(10)) for source in sources]


QUICK = [
    "first",
    "first, split",
    "prepend",
    "gemma, retrained",
    "t5, precompiled",
    "deberta",
]


@pytest.mark.parametrize("kind", mostly_slow(KINDS, QUICK))
def test_ids_and_texts_are_those_of_the_library(kind, tmp_path):
    content = KINDS[kind]()
    tokenizer, reference = read(tmp_path / "it", content), Reference(content)
    given = hard_texts(300, [token["content"] for token in content["added_tokens"]][:9])
    expected = reference.encode(given)
    assert [ids.tolist() for ids in tokenizer.encode_batch(given)] == expected
    graph = tokenizer.in_graph()
    assert graph.encode(strings(given)).to_list() == expected
    control = tokenizer.special_ids - {tokenizer.unk_id}
    assert not control & {i for ids in expected for i in ids}  # none comes out of a text
    ids = [*expected, *any_ids(tokenizer)]
    ragged = tf.ragged.constant(ids, tf.int32, row_splits_dtype=tf.int64)
    for skip in (True, False):
        texts = reference.decode(ids, skip)
        assert [tokenizer.decode(row, skip_special_tokens=skip) for row in ids] == texts
        assert [t.decode() for t in graph.decode(ragged, skip_special_tokens=skip).numpy()] == texts
    some = given[::7]
    assert [tokenizer.encode_with_special(text) for text in some] == [
        reference_row.ids
        for reference_row in trusted(content).encode_batch(
            [text.decode(errors="replace") for text in some], add_special_tokens=False
        )
    ]

    tokenizer.save(tmp_path / "saved")
    again = read_tokenizer(tmp_path / "saved")
    assert again.fingerprint == tokenizer.fingerprint and again.roles == tokenizer.roles
    assert [row.tolist() for row in again.encode_batch(given)] == expected
    travelled = pickle.loads(pickle.dumps(tokenizer))
    assert [row.tolist() for row in travelled.encode_batch(given)] == expected
    written = json.loads((tmp_path / "saved" / "tokenizer.json").read_text())
    assert Reference(written).encode(given) == expected


def trusted(content):
    return Tokenizer.from_str(json.dumps(content))


def test_a_llama_as_it_is_saved_today(tmp_path):
    assert read(tmp_path / "a", llama("first")).encode("Hi") == [261, 262]
    tokenizer = read(tmp_path / "b", llama("first", unknown="<unk>"))
    assert [tokenizer.encode(text) for text in (" Hi", "  Hi", " ", "")] == [
        [261, 262],
        [260, 263, 262],
        [259],
        [],
    ]
    tokenizer = read(tmp_path / "c", llama("always", prepend=True))
    assert tokenizer.encode("x New") == [259, 267, 268]
    assert tokenizer.encode("xNewx") == [259, 267, 264, 265, 266, 267]
    assert tokenizer.decode([259, 267, 268]) == "x New"
    assert tokenizer.token_label(3 + 0xF0) == r"\xF0"


@pytest.mark.parametrize("name", ["llama", "gemma", "bert", "t5", "gpt2"])
def test_what_transformers_saves(name):
    answers = json.loads((GOLDENS / "goldens.json").read_text(encoding="utf-8"))[name]
    tokenizer = read_tokenizer(GOLDENS / name)
    graph = tokenizer.in_graph()
    offline = [ids.tolist() for ids in tokenizer.encode_batch(texts())]
    assert graph.encode(strings([text.encode() for text in texts()])).to_list() == offline
    for text, ids, expected in zip(texts(), offline, answers["ids"], strict=True):
        if name == "t5" and ("</s>" in text or "<unk>" in text):
            assert not {0, 1} & set(ids)  # there its model finds them, here no text makes control tokens
        else:
            assert ids == expected, text
    assert [tokenizer.decode(row) for row in answers["some"]] == answers["decoded"]
    framed = [*tokenizer.prefix_ids, *tokenizer.encode(FRAMED), *tokenizer.suffix_ids]
    assert framed == answers["framed"]


def test_neither_truncation_nor_padding_is_done(tmp_path):
    content = llama("first")
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<unk>",
    }
    tokenizer = read(tmp_path / "it", content)
    assert tokenizer.encode("HiHiHiHi") == [261, 262, 263, 262, 263, 262, 263, 262]
    assert tokenizer.encode("Hi") == [261, 262]


def drop(key):
    return lambda content: content["model"].pop(key)


def model(**options):
    return lambda content: content["model"].update(options)


def part(name, **content):
    return lambda it: it.update({name: content})


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("first", model(ignore_merges=True), "model.ignore_merges=True must be left out"),
        ("first", model(end_of_word_suffix="</w>"), "model.end_of_word_suffix='</w>' must be left out"),
        ("first", model(unk_token="?"), r"model.unk_token='\?' must be in the vocabulary"),
        ("first", model(merges=[["a", "b"]]), "merge 'a' 'b' must stand beside the others"),
        ("first", drop("vocab"), "model must be well formed"),
        (
            "first",
            part("decoder", type="WordPiece", prefix="##", cleanup=True),
            "decoder=.* is not known there",
        ),
        (
            "first",
            part("normalizer", type="Strip", strip_left=True, strip_right=False),
            "'first' must not go with",
        ),
        (
            "first",
            part("pre_tokenizer", type="Punctuation", behavior="Isolated"),
            "pre_tokenizer=.* is none of",
        ),
        ("first", part("pre_tokenizer", type="WhitespaceSplit"), "writes blanks as U.2581"),
        ("t5, retrained", model(unk_id=None), "must have an unknown token"),
        ("t5, retrained", model(unk_id=10**6), "model must be well formed"),
        ("t5, retrained", part("normalizer", type="Precompiled", precompiled_charsmap="?"), "must be base64"),
        (
            "t5, retrained",
            part("normalizer", type="Replace", pattern={"Regex": "\\d+"}, content=""),
            "is none of",
        ),
    ],
)
def test_what_cannot_be_done_exactly_is_refused(kind, change, message, tmp_path):
    content = KINDS[kind]()
    change(content)
    with pytest.raises(TokenizerError, match=message):
        read(tmp_path / "it", content)


def test_a_special_name_that_merges_make_is_refused(tmp_path):
    content = llama("first")
    content["added_tokens"].append({"id": 261, "content": BLANK + "H", "special": True})
    with pytest.raises(TokenizerError, match="must not be a token of the text"):
        read(tmp_path / "it", content)


def test_what_is_an_ordinary_word_plays_no_part_unless_a_file_says_so(tmp_path):
    content = llama("first", words=["<mask>"])
    assert "mask_token" not in read(tmp_path / "it", content).roles
    named = read(tmp_path / "it", content, tokenizer_config={"mask_token": "<mask>"})
    assert named.mask_id == 268


def test_a_config_says_what_is_special_and_what_stands_around_texts(tmp_path):
    content = llama("first", words=["New", "covid"])
    config = {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>"},
        "add_bos_token": True,
        "add_eos_token": True,
        "extra_special_tokens": ["New", "of no vocabulary"],
    }
    tokenizer = read(tmp_path / "it", content, tokenizer_config=config)
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids, tokenizer.separator_ids) == ((1,), (2,), (2, 1))
    assert tokenizer.special_tokens["New"] == 268 and "covid" not in tokenizer.special_tokens
    assert tokenizer.encode("New")[0] == 259 and tokenizer.decode([268, 262, 269]) == "icovid"
    named = {**config, "extra_special_tokens": {"word_token": "New"}, "add_eos_token": False}
    tokenizer = read(tmp_path / "it", content, tokenizer_config=named)
    assert tokenizer.special_tokens["New"] == 268 and tokenizer.suffix_ids == ()
    plain = read(tmp_path / "plain", content)
    assert (plain.prefix_ids, plain.suffix_ids) == ((), ()) and "New" not in plain.special_tokens


def special_byte(content):
    content["added_tokens"].append({"id": 3 + 0x0A, "content": "<0x0A>", "special": True})


def late_blanks(content):
    steps = [{"type": "Replace", "pattern": {"String": " "}, "content": BLANK}, {"type": "NFKC"}]
    content.update(normalizer={"type": "Sequence", "normalizers": steps}, pre_tokenizer=None)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        # Each would let a text make control tokens: "\n" that of a byte, and U+00A0 with a number any.
        ("first", special_byte, "special token '<0x0A>' must not be a token of the text"),
        ("t5, retrained", late_blanks, "must write all blanks as U.2581, none may come later"),
    ],
)
def test_no_text_makes_control_tokens(kind, change, message, tmp_path):
    content = KINDS[kind]()
    change(content)
    with pytest.raises(TokenizerError, match=message):
        read(tmp_path / "it", content)


def test_blanks_may_come_of_other_characters_where_they_are_written_last(tmp_path):
    content = golden("t5")
    late_blanks(content)
    content["normalizer"]["normalizers"].reverse()
    tokenizer = read(tmp_path / "it", content)
    assert tokenizer.encode("\u00a01") == tokenizer.encode(" 1")


def test_a_decoder_may_make_bytes_of_pieces_and_pieces_of_bytes(tmp_path):
    content = llama("never")
    replaced = [("w", "<0x41>"), ("<0x42>", "?"), ("N", "<0xC3>")]
    steps = [{"type": "Replace", "pattern": {"String": old}, "content": new} for old, new in replaced]
    content["decoder"]["decoders"][:0] = steps
    tokenizer, reference = read(tmp_path / "it", content), Reference(content)
    w, n = 266, 264
    ids = [[w], [3 + 0x42], [n], [n, 3 + 0xA4], [n, w], [n, 3 + 0x42, w]]
    texts = reference.decode(ids)
    assert texts[:4] == ["A", "?", "\ufffd", "ä"]
    assert [tokenizer.decode(row) for row in ids] == texts
    ragged = tf.ragged.constant(ids, tf.int32, row_splits_dtype=tf.int64)
    assert [text.decode() for text in tokenizer.in_graph().decode(ragged).numpy()] == texts


def test_a_vocabulary_of_special_tokens_only(tmp_path):
    content = golden("t5")
    content["model"]["vocab"] = content["model"]["vocab"][:3]
    content["added_tokens"] = content["added_tokens"][:3]
    tokenizer = read(tmp_path / "it", content)
    given = [b"", b"a", b"a b", "\u2581".encode()]
    offline = [ids.tolist() for ids in tokenizer.encode_batch(given)]
    assert tokenizer.in_graph().encode(strings(given)).to_list() == offline


@pytest.mark.parametrize("table", [None, "", "AAAA", base64.b64encode(b"\4\0\0\0\0\0\0\0\xff").decode()])
def test_a_table_of_characters_that_is_none_is_refused(table, tmp_path):
    content = golden("t5", normalizer={"type": "Precompiled", "precompiled_charsmap": table})
    with pytest.raises(TokenizerError, match="must be base64 of one of SentencePiece's tables"):
        read(tmp_path / "it", content)


def test_a_damaged_table_of_characters_gives_no_graph(tmp_path):
    content = golden("t5", normalizer=charsmap())
    table = bytearray(base64.b64decode(content["normalizer"]["precompiled_charsmap"]))
    table[-1] = ord("x")  # the last text does not end
    content["normalizer"]["precompiled_charsmap"] = base64.b64encode(table).decode()
    tokenizer = read(tmp_path / "it", content)
    with pytest.raises(TokenizerError, match="must be one of SentencePiece's tables"):
        tokenizer.in_graph()
