"""SentencePiece: in the graph, offline and in its library, on small models of each kind."""

import io
import json
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece
import tensorflow as tf
import tokenizers
from hard_texts import HARD_CASES, random_texts

from tfllm.tokenizers import TokenizerError, read_tokenizer
from tfllm.tokenizers.files.gguf import read_gguf_tokenizer
from tfllm.tokenizers.repair import repair_text
from tfllm.tokenizers.sentencepiece_model import parsed_model

KINDS = {
    "unigram": {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc"},
    "unigram bytes": {"model_type": "unigram", "byte_fallback": True, "vocab_size": 700},
    "bpe": {"model_type": "bpe"},
    "llama": {
        "model_type": "bpe",
        "byte_fallback": True,
        "vocab_size": 700,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    },
    "user defined": {
        "model_type": "unigram",
        "user_defined_symbols": ["<sep>", "return"],
        "add_dummy_prefix": False,
        "normalization_rule_name": "identity",
    },
}
OTHERS = {
    "without padding": {"model_type": "unigram", "pad_id": -1},
    "t5": {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
}


@pytest.fixture(scope="session")
def trained(training_text):
    def train(**options):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(training_text.splitlines()),
            model_writer=model,
            minloglevel=2,
            **{"vocab_size": 400, "pad_id": 3, **options},
        )
        return model.getvalue()

    made: dict[str, bytes] = {}
    return lambda name: made.setdefault(name, made.get(name) or train(**(KINDS | OTHERS)[name]))


def read(folder, model, **files):
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return read_tokenizer(folder)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def strings(texts):
    return tf.constant(np.array(texts, dtype=object), tf.string, shape=[len(texts)])


def hard_texts():
    rng = random.Random(0)
    ties = ["".join(rng.choices("0123456789 .,l'aebt=-*", k=50)).encode() for _ in range(500)]
    special = "<s> </s> <unk> <0x0A> <pad><sep>return \u2581 a\u2581b \u2047".encode()
    return [special, b"  lead", b"trail  ", *ties, *HARD_CASES, *random_texts(1000, seed=13)]


def test_ids_and_texts_are_those_of_the_library(kind, trained, tmp_path):
    tokenizer = read(tmp_path / "model", trained(kind))
    library = sentencepiece.SentencePieceProcessor(model_proto=trained(kind))
    texts = hard_texts()
    expected = library.encode([repair_text(text) for text in texts])
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == expected
    assert not {1, 2, 3} & {i for ids in expected for i in ids}  # no control token comes out of a text
    graph = tokenizer.in_graph()
    encoded = graph.encode(strings(texts))
    assert encoded.to_list() == expected
    decoded = library.decode(expected)
    assert [tokenizer.decode(ids) for ids in expected] == decoded
    assert [text.decode() for text in graph.decode(encoded).numpy()] == decoded
    assert [ids.tolist() for ids in pickle.loads(pickle.dumps(tokenizer)).encode_batch(texts)] == expected

    tokenizer.save(tmp_path / "saved")
    again = read_tokenizer(tmp_path / "saved")
    assert again.fingerprint == tokenizer.fingerprint and again.roles == tokenizer.roles
    if kind == "user defined":
        return
    (tmp_path / "saved" / "tokenizer.model").unlink()  # the other file alone says the same
    again = read_tokenizer(tmp_path / "saved")
    assert [ids.tolist() for ids in again.encode_batch(texts)] == expected
    assert again.prefix_ids == tokenizer.prefix_ids == (1,)


def test_small_batches_and_any_ids(kind, trained, tmp_path):
    tokenizer = read(tmp_path / "model", trained(kind))
    graph = tokenizer.in_graph()
    for texts in ([], [b""], [b"", b"a", b""], [b" "], [b"\xff"]):
        assert graph.encode(strings(texts)).to_list() == [
            ids.tolist() for ids in tokenizer.encode_batch(texts)
        ]
    ids = np.random.default_rng(0).integers(0, tokenizer.vocab_size, [300, 8], dtype=np.int32)
    ids[::3, 0] = tokenizer.encode("a")[0]
    for skip in (True, False):
        expected = [tokenizer.decode(row, skip_special_tokens=skip) for row in ids]
        assert [t.decode() for t in graph.decode(ids, skip_special_tokens=skip).numpy()] == expected
    library = sentencepiece.SentencePieceProcessor(model_proto=trained(kind))
    model = parsed_model("model", trained(kind))
    plain = [[i for i in row if model.pieces[i].type != 3] for row in ids.tolist()]
    assert [tokenizer.decode(row) for row in plain] == library.decode(plain)


def test_the_saved_file_means_the_same_to_the_other_library(trained, tmp_path):
    tokenizer = read(tmp_path / "model", trained("llama"))
    tokenizer.save(tmp_path / "saved")
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    text = "return  x  # \u00e9 \U0001f917"
    assert library.encode(text).ids == [1, *tokenizer.encode(text)]
    assert library.decode(tokenizer.encode(text)) == text
    for trusted in ("a</s> b<s>", "</s>\n</s> x"):
        assert library.encode(trusted, add_special_tokens=False).ids == tokenizer.encode_with_special(trusted)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("name", ["unigram", "llama"])
def test_tokens_beyond_the_model(name, legacy, trained, tmp_path):
    size = len(parsed_model("model", trained(name)).pieces)
    tokenizer = read(
        tmp_path / "model",
        trained(name),
        tokenizer_config={"legacy": legacy, "eos_token": {"content": "<end>"}},
        added_tokens={"<end>": size, "New Word": size + 3},
    )
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (size + 4, size)
    texts = [b"a New Word b<end>", b"New Word", b"New WordNew Word x", b"", b" New Word "]
    expected = [ids.tolist() for ids in tokenizer.encode_batch(texts)]
    library = sentencepiece.SentencePieceProcessor(model_proto=trained(name))
    behind = library.encode(" b<end>") if legacy else library.encode(" b<end>", add_bos=False)[1:]
    if legacy:
        assert expected[0] == [*library.encode("a "), size + 3, *behind]
    assert expected[1] == [size + 3]
    assert tokenizer.in_graph().encode(strings(texts)).to_list() == expected
    ids, places = tokenizer.encode_with_offsets("a New Word b<end>")
    assert ids[-1] == size and places[-1] == (12, 17) and places[ids.index(size + 3)] == (2, 10)
    assert tokenizer.decode([size + 3, size, size + 1]) == "New Word"
    tokenizer.save(tmp_path / "saved")
    assert read_tokenizer(tmp_path / "saved").fingerprint == tokenizer.fingerprint


def test_t5_and_xlm_r_number_tokens_of_their_own(trained, tmp_path):
    t5 = read(tmp_path / "t5", trained("t5"), tokenizer_config={"tokenizer_class": "T5Tokenizer"})
    assert t5.vocab_size == 500 and t5.special_tokens["<extra_id_0>"] == 499
    assert (t5.prefix_ids, t5.suffix_ids, t5.separator_ids) == ((), (1,), (1,))
    assert (t5.bos_id, t5.eos_id, t5.pad_id, t5.unk_id) == (0, 1, 0, 2)  # padding begins what it decodes
    folder = tmp_path / "xlmr"
    folder.mkdir()
    (folder / "sentencepiece.bpe.model").write_bytes(trained("without padding"))
    xlmr = read_tokenizer(folder)
    assert [xlmr.special_tokens[name] for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")] == [
        0,
        1,
        2,
        3,
        401,
    ]
    assert (xlmr.prefix_ids, xlmr.suffix_ids, xlmr.separator_ids) == ((0,), (2,), (2, 2))
    text = "return the value of it"
    library = sentencepiece.SentencePieceProcessor(model_proto=trained("without padding"))
    assert xlmr.encode(text) == [i + 1 for i in library.encode(text)]
    (folder / "sentencepiece.bpe.model").write_bytes(trained("unigram"))
    with pytest.raises(TokenizerError, match="<pad> is already defined"):
        read_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "MBartTokenizer"}')
    with pytest.raises(TokenizerError, match="tokenizer_class='MBartTokenizer' must be XLMRobertaTokenizer"):
        read_tokenizer(folder)


@pytest.mark.parametrize(("name", "kind"), [("llama", "llama"), ("unigram", "t5")])
def test_gguf(name, kind, trained):
    model = parsed_model("model", trained(name))
    fields = {
        "tokenizer.ggml.model": kind,
        "tokenizer.ggml.tokens": [piece.piece for piece in model.pieces],
        "tokenizer.ggml.scores": [piece.score for piece in model.pieces],
        "tokenizer.ggml.token_type": [piece.type for piece in model.pieces],
        "tokenizer.ggml.precompiled_charsmap": list(model.normalizer_spec.precompiled_charsmap),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    tokenizer = read_gguf_tokenizer(fields, lambda key: fields.get(key, []), "model.gguf")
    library = sentencepiece.SentencePieceProcessor(model_proto=trained(name))
    texts = [repair_text(text) for text in hard_texts()]
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == library.encode(texts)
    ends = ((1,), ()) if kind == "llama" else ((), (2,))
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids) == ends
    fields["tokenizer.ggml.scores"].pop()
    with pytest.raises(TokenizerError, match="scores must be as many as the"):
        read_gguf_tokenizer(fields, lambda key: fields.get(key, []), "model.gguf")


def test_a_damaged_model_is_refused(trained, tmp_path):
    whole = trained("unigram")
    for content, message in (
        (whole[: len(whole) // 2], "whole SentencePiece model|must be|library loads"),
        (b"", "must hold the pieces"),
        (b"\xff" * 100, "must be a whole SentencePiece model"),
    ):
        with pytest.raises(TokenizerError, match=message):
            read(tmp_path / "model", content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda content: content.update(normalizer={"type": "Lowercase"}),
            "normalizer=.* is none of SentencePiece's",
        ),
        (
            lambda content: content.update(pre_tokenizer={"type": "Punctuation"}),
            "pre_tokenizer=.* is none of",
        ),
        (
            lambda content: content["model"].update(ignore_merges=True),
            "model.ignore_merges=True must be left out",
        ),
        (
            lambda content: content["model"].update(unk_token="<none>"),
            "unk_token='<none>' must be in the vocab",
        ),
        (
            lambda content: content.update(decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}),
            "decoder=.* is not known there",
        ),
        (lambda content: content["model"].update(vocab=5), "must be well formed"),
        (lambda content: content["model"]["merges"].append(["a", "\u00df"]), "must stand beside the others"),
        (
            lambda content: content["added_tokens"].append({"id": 9, "content": "<x>"}),
            "must have an id of its own",
        ),
    ],
)
def test_a_file_that_does_not_come_from_sentencepiece_is_refused(change, message, trained, tmp_path):
    read(tmp_path / "model", trained("llama")).save(tmp_path / "saved")
    (tmp_path / "saved" / "tokenizer.model").unlink()
    path = tmp_path / "saved" / "tokenizer.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=message):
        read_tokenizer(tmp_path / "saved")


LOAD_AND_RUN = """
import json, sys
import tensorflow as tf
import tensorflow_text
texts = tf.constant([bytes.fromhex(text) for text in json.load(open("texts.json"))])
results = []
for folder in sys.argv[1:]:
    loaded = tf.saved_model.load(folder)
    ids = loaded.encode(texts)
    results.append([ids.to_list(), [text.hex() for text in loaded.decode(ids).numpy()]])
json.dump(results, sys.stdout)
assert not {"tfllm", "tokenizers", "sentencepiece"} & set(sys.modules)
"""


class Exported(tf.Module):
    def __init__(self, tokenizer):
        super().__init__()
        self.tokenizer = tokenizer.in_graph()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def encode(self, texts):
        return self.tokenizer.encode(texts)

    @tf.function(input_signature=[tf.RaggedTensorSpec([None, None], tf.int32)])
    def decode(self, token_ids):
        return self.tokenizer.decode(token_ids)


@pytest.mark.slow
def test_in_saved_models_without_this_package(trained, tmp_path):
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "##b", "x", "##'", "e"])
    )
    all_of_them = [
        read_tokenizer(tmp_path),
        *(read(tmp_path / name, trained(name)) for name in ("unigram", "llama")),
    ]
    texts = HARD_CASES + random_texts(50, seed=5)
    folders = [str(tmp_path / f"model{i}") for i in range(len(all_of_them))]
    for tokenizer, folder in zip(all_of_them, folders, strict=True):
        exported = Exported(tokenizer)
        tf.saved_model.save(exported, folder)
        dataset = tf.data.Dataset.from_tensor_slices(strings(texts)).batch(16).map(exported.encode)
        rows = [row for batch in dataset for row in batch.to_list()]
        assert rows == [ids.tolist() for ids in tokenizer.encode_batch(texts)]
    (tmp_path / "texts.json").write_text(json.dumps([text.hex() for text in texts]))
    (tmp_path / "run.py").write_text(LOAD_AND_RUN)
    done = subprocess.run([sys.executable, "run.py", *folders], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for tokenizer, (ids, decoded) in zip(all_of_them, json.loads(done.stdout), strict=True):
        expected = [row.tolist() for row in tokenizer.encode_batch(texts)]
        assert ids == expected
        assert decoded == [tokenizer.decode(row).encode().hex() for row in expected]
