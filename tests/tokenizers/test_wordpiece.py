"""WordPiece: in the graph, offline and in the library, on a small vocabulary."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from hard_texts import HARD_CASES, random_texts
from tokenizers import models, trainers

from tfllm.tokenizers import TokenizerError, WordPieceTokenizer, read_tokenizer
from tfllm.tokenizers.repair import repair_text
from tfllm.tokenizers.wordpiece_rules import WordPieceRules

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROLES = {"bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]"}
OTHERS = {"unk_token": "[UNK]", "mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
VARIANTS = {
    "uncased": WordPieceRules(),
    "cased": WordPieceRules(lowercase=False, strip_accents=False),
    "accents stay": WordPieceRules(strip_accents=False),
    "accents go": WordPieceRules(lowercase=False),
    "nothing": WordPieceRules(False, False, False, False, max_word_length=7, cleanup=False),
}
MORE = [
    "a\u0327\u0301 \u1e9b\u0323 \uac00\uf900 \u0130I\u0307 \u01c5 \u2126 \u212b ΑΣ \u302e\U0001d165 \U0001d165\u302e",
    "a" * 99 + " " + "a" * 100 + " " + "a" * 101 + " " + "é" * 100 + " " + "é" * 101,
    "a\u0301\0\u0327 b\u200d\u00adc \u3000d\u0085e\u2028f \ue000 \ufffe \U000ffffe \U0010ffff",
    "中" * 30 + "don't ' s 's n't . ? ! , do not 've 're [MASK] [CLS] ##a # #",
]


@pytest.fixture(scope="module")
def vocab(training_text):
    library = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    accents = [training_text, "é à Å ñ ö ά ぱ 中 文 ' . , ! ? 한 α σ ς ̇ i̇"] * 2
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=SPECIAL, show_progress=False)
    library.train_from_iterator(accents, trainer)
    return library.get_vocab()


def made(vocab, rules=VARIANTS["uncased"], **more):
    special = {name: vocab[name] for name in SPECIAL}
    return WordPieceTokenizer(vocab, special_tokens=special, rules=rules, other_roles=OTHERS, **ROLES, **more)


@pytest.fixture(scope="module", params=VARIANTS, name="pair")
def _pair(vocab, request):
    tokenizer = made(vocab, VARIANTS[request.param])
    return tokenizer, tokenizer.in_graph()


def strings(texts):
    return tf.constant(np.array(texts, dtype=object), tf.string, shape=[len(texts)])


def hard_texts():
    marks = [
        f"x{chr(c)}y {chr(c)}\u0301{chr(c)}" for c in [*range(0x80, 0x3400, 3), *range(0xA000, 0x1F000, 17)]
    ]
    every = [text.encode("utf-8", "surrogatepass") for text in marks + MORE]
    return HARD_CASES + random_texts(1500, seed=12) + every


def test_ids_and_texts_are_those_of_the_library(pair, tmp_path):
    tokenizer, graph = pair
    tokenizer.save(tmp_path)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    library.encode_special_tokens = True
    texts = hard_texts()
    repaired = [repair_text(text) for text in texts]
    expected = [encoding.ids for encoding in library.encode_batch(repaired, add_special_tokens=False)]
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == expected
    encoded = graph.encode(strings(texts))
    assert encoded.to_list() == expected
    for skip in (True, False):
        decoded = library.decode_batch(expected, skip_special_tokens=skip)
        assert [tokenizer.decode(ids, skip_special_tokens=skip) for ids in expected] == decoded
        in_graph = graph.decode(encoded, skip_special_tokens=skip).numpy()
        assert [text.decode() for text in in_graph] == decoded
    again = read_tokenizer(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint and again.rules == tokenizer.rules


def test_any_ids_decode_as_the_library_decodes_them(pair):
    tokenizer, graph = pair
    ids = np.random.default_rng(0).integers(0, tokenizer.vocab_size, [300, 8], dtype=np.int32)
    decoded = tokenizer._library.decode_batch(ids.tolist(), skip_special_tokens=True)
    names = tokenizer._library_with_added().decode_batch(ids.tolist(), skip_special_tokens=True)
    assert [tokenizer.decode(row) for row in ids] == names
    assert [text.decode() for text in graph.decode(ids).numpy()] == names
    assert decoded != names  # special tokens were among them


def test_bert_frames_texts_and_plays_its_roles(vocab, tmp_path):
    names = sorted(vocab, key=vocab.__getitem__)
    (tmp_path / "vocab.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    tokenizer = read_tokenizer(tmp_path)
    cls, sep = vocab["[CLS]"], vocab["[SEP]"]
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids, tokenizer.separator_ids) == ((cls,), (sep,), (sep,))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (cls, sep, vocab["[PAD]"])
    assert (tokenizer.unk_id, tokenizer.mask_id) == (vocab["[UNK]"], vocab["[MASK]"])
    assert tokenizer.rules == WordPieceRules()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert read_tokenizer(tmp_path).rules == VARIANTS["cased"]
    # Trusted texts may name special tokens.
    assert tokenizer.encode_with_special("a[MASK] b")[1] == vocab["[MASK]"]
    assert vocab["[MASK]"] not in tokenizer.encode("a[MASK] b")
    tokenizer.save(tmp_path / "saved")
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    body = tokenizer.encode("return the value")
    assert library.encode("return the value").ids == [cls, *body, sep]
    assert read_tokenizer(tmp_path / "saved").separator_ids == (sep,)


def test_added_tokens_and_holes(vocab):
    from tfllm.tokenizers.added_token import AddedToken

    added = [AddedToken("New-Word", len(vocab) + 3, special=False, normalized=True)]
    tokenizer = made(vocab, added_tokens=added)
    assert tokenizer.vocab_size == len(vocab) + 4
    texts = [b"a new-word NEW-WORD b", b"newword"]
    expected = tokenizer.encode_batch(texts)
    assert list(expected[0]).count(len(vocab) + 3) == 2
    assert tokenizer.in_graph().encode(strings(texts)).to_list() == [ids.tolist() for ids in expected]
    assert tokenizer.decode([len(vocab), vocab["return"]]) == "return"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["[PAD]", "[UNK]", "a", "b", "a"], "'a' must stand there once, it is on lines 3 and 5"),
        (["[PAD]", "a"], r"unk_token='\[UNK\]' must be in the vocabulary of 2 tokens"),
        (["[UNK]", "a"], "bos_token and eos_token must be in the vocabulary"),
        ([], "must be in the vocabulary of 0 tokens"),
    ],
)
def test_a_damaged_vocabulary_is_refused(tmp_path, lines, message):
    (tmp_path / "vocab.txt").write_text("\n".join(lines))
    with pytest.raises(TokenizerError, match=message):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("normalizer", {"type": "Lowercase"}, "must be BertNormalizer"),
        ("pre_tokenizer", {"type": "Whitespace"}, "must be BertPreTokenizer"),
        ("model", {"type": "WordPiece", "vocab": []}, "model must be well formed"),
    ],
)
def test_another_kind_of_file_is_refused(vocab, tmp_path, key, value, message):
    made(vocab).save(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(TokenizerError, match=message):
        read_tokenizer(tmp_path)


def test_a_special_name_that_is_a_word_is_refused(vocab):
    special = {**{name: vocab[name] for name in SPECIAL}, "pad": len(vocab)}
    with pytest.raises(TokenizerError, match="added token 'pad' must not be a word of the text"):
        WordPieceTokenizer(vocab, special_tokens=special, other_roles=OTHERS, **{**ROLES, "pad_token": "pad"})


def test_fingerprints_tell_rules_apart(vocab):
    variants = [made(vocab, rules).fingerprint for rules in VARIANTS.values()]
    assert len(set(variants)) == len(variants)
    assert made(vocab).fingerprint == made(vocab, dataclasses.replace(WordPieceRules())).fingerprint
