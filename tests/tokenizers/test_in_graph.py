import itertools
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from hard_texts import HARD_CASES, random_texts

from tests.marks import mostly_slow
from tfllm.tokenizers import ByteBPETokenizer, ByteTokenizer
from tfllm.tokenizers.byte_alphabet import BYTE_CHARACTERS, token_to_bytes
from tfllm.tokenizers.code_point_classes import LETTER, NUMBER, SPACE
from tfllm.tokenizers.graph.split import GraphSplit
from tfllm.tokenizers.graph.text import repair
from tfllm.tokenizers.repair import repair_text
from tfllm.tokenizers.word_encoder import _ranges
from tfllm.tokenizers.word_split import SPLITS


@pytest.fixture(scope="module")
def in_graph(tokenizer):
    return tokenizer.in_graph()


def strings(texts):
    return tf.constant(np.array(texts, dtype=object), tf.string, shape=[len(texts)])


def assert_same_ids(ragged, expected):
    assert ragged.dtype == tf.int32
    rows = np.split(ragged.flat_values.numpy(), ragged.row_splits.numpy()[1:-1]) if len(expected) else []
    assert ragged.nrows() == len(expected)
    for row, ids in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(row, ids)


def test_ids_and_texts_are_those_offline(tokenizer, in_graph):
    texts = HARD_CASES + random_texts(2000, seed=3)
    encoded = in_graph.encode(strings(texts))
    assert_same_ids(encoded, tokenizer.encode_batch(texts))
    assert in_graph.decode(encoded).numpy().tolist() == [repair_text(text).encode() for text in texts]


def test_any_ids_decode_as_offline(tokenizer, in_graph):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, tokenizer.vocab_size, [200, 12], dtype=np.int32)
    ids[:, ::5] = rng.choice(list(tokenizer.special_ids), ids[:, ::5].shape)
    for skip in (True, False):
        expected = [tokenizer.decode(row, skip_special_tokens=skip).encode() for row in ids]
        ragged = tf.RaggedTensor.from_tensor(ids)
        assert in_graph.decode(ids, skip_special_tokens=skip).numpy().tolist() == expected
        assert in_graph.decode(ragged, skip_special_tokens=skip).numpy().tolist() == expected


@pytest.mark.parametrize("texts", [[], [b""], [b"", b"", b""], [b"a"], [b"", b"a", b""], [b"'"], [b" "]])
def test_small_batches(tokenizer, in_graph, texts):
    encoded = in_graph.encode(strings(texts))
    assert_same_ids(encoded, tokenizer.encode_batch(texts))
    assert in_graph.decode(encoded).numpy().tolist() == texts


def test_an_id_outside_the_vocabulary_is_refused(tokenizer, in_graph):
    with pytest.raises(tf.errors.InvalidArgumentError):
        in_graph.decode(tf.constant([[tokenizer.vocab_size]]))


def test_very_long_words(tokenizer, in_graph):
    rng = random.Random(0)
    letters = "".join(rng.choices("etaoins", k=100_000))
    mixed = "".join(rng.choices(["a", "aa", "the", "ing", "x" * 300], k=300))
    texts = [letters.encode(), b"a" * 100_001, mixed.encode(), ("中" * 20_000).encode(), b"short words"]
    assert_same_ids(in_graph.encode(strings(texts)), tokenizer.encode_batch(texts))


def test_one_trace_serves_all_batches(tokenizer):
    graph = tokenizer.in_graph()
    for texts in ([], [b"a"], [b"some", b"longer text " * 50], HARD_CASES):
        graph.encode(strings(texts))
    assert graph._encode_function.experimental_get_tracing_count() == 1


def test_inside_a_dataset(tokenizer, in_graph):
    texts = HARD_CASES + random_texts(40, seed=4)
    dataset = tf.data.Dataset.from_tensor_slices(strings(texts)).batch(16)
    dataset = dataset.map(lambda batch: (in_graph.encode(batch), in_graph.decode(in_graph.encode(batch))))
    batches = list(dataset)
    rows = [row.numpy() for encoded, _ in batches for row in encoded]
    for row, ids in zip(rows, tokenizer.encode_batch(texts), strict=True):
        np.testing.assert_array_equal(row, ids)
    decoded = [text for _, batch in batches for text in batch.numpy().tolist()]
    assert decoded == [repair_text(text).encode() for text in texts]


def test_made_while_tracing():
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def encode(texts):
        return ByteTokenizer().in_graph().encode(texts)

    assert encode(strings([b"ab"])).to_list() == [[97, 98]]


LOAD_AND_RUN = """
import json, sys
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
texts = tf.constant([bytes.fromhex(text) for text in json.load(open(sys.argv[2]))])
ids = loaded.encode(texts)
json.dump({"ids": ids.to_list(), "texts": [text.hex() for text in loaded.decode(ids).numpy()]}, sys.stdout)
assert "tfllm" not in sys.modules and "tokenizers" not in sys.modules
"""


def test_in_a_saved_model_without_this_package(byte_bpe, tmp_path):
    import json

    class Exported(tf.Module):
        def __init__(self):
            super().__init__()
            self.tokenizer = byte_bpe.in_graph()

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def encode(self, texts):
            return self.tokenizer.encode(texts)

        @tf.function(input_signature=[tf.RaggedTensorSpec([None, None], tf.int32)])
        def decode(self, token_ids):
            return self.tokenizer.decode(token_ids)

    tf.saved_model.save(Exported(), str(tmp_path / "model"))
    texts = HARD_CASES + random_texts(50, seed=5)
    (tmp_path / "texts.json").write_text(json.dumps([text.hex() for text in texts]))
    (tmp_path / "run.py").write_text(LOAD_AND_RUN)
    arguments = [sys.executable, "-P", "run.py", "model", "texts.json"]
    if sys.version_info < (3, 11):
        arguments.remove("-P")
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["ids"] == [ids.tolist() for ids in byte_bpe.encode_batch(texts)]
    assert result["texts"] == [repair_text(text).encode().hex() for text in texts]


def test_the_graph_is_stateless_core_tensorflow(tokenizer, in_graph):
    graph = in_graph._encode_function.get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    ops = {node.op for node in nodes}
    assert not {op for op in ops if "PyFunc" in op or "Table" in op or "Variable" in op or "Random" in op}
    assert "While" not in ops  # StatelessWhile, where there is a loop


def test_repair_is_that_of_python():
    texts = random_texts(20_000, seed=6)
    texts.append(b"\xf0\x9f\x98" * 3000 + b"a" * 5000 + b"\xed\xbf\xbf")
    assert repair(strings(texts)).numpy().tolist() == [repair_text(text).encode() for text in texts]


def assert_split_alike(split, texts):
    """In the graph, in the library, and by Python's expression."""
    library = split.pre_tokenizer()
    offline = [[token_to_bytes(word) for word, _ in library.pre_tokenize_str(text)] for text in texts]
    words = tf.function(GraphSplit(split).__call__)(strings([text.encode() for text in texts]))
    for text, expected, found in zip(texts, offline, words.to_list(), strict=True):
        assert found == expected, repr(text)
    classes = (_ranges(kind, 0x10FFFF, split.own_digits) for kind in (LETTER, NUMBER, SPACE))
    expression = re.compile(split.expression(*classes))
    for text, expected in zip(texts, offline, strict=True):
        assert [word.encode() for word in expression.findall(text)] == expected, repr(text)


@pytest.mark.parametrize("name", mostly_slow(SPLITS, ["gpt2", "llama3"]))
def test_the_split_on_short_strings(name):
    split = SPLITS[name]
    # All strings up to four characters, of six characters all up to six, and a sample of longer ones.
    alphabet = "a1'sl! \n\u00a0\u0301"
    texts = ["".join(c) for n in range(5) for c in itertools.product(alphabet, repeat=n)]
    texts += ["".join(c) for n in (5, 6) for c in itertools.product(" \na!'1", repeat=n)]
    rng = random.Random(0)
    more = "revetmd\r2SLVRE\u017f"
    texts += ["".join(rng.choices(alphabet + more, k=8)) for _ in range(10_000)]
    assert_split_alike(split, texts)


@pytest.mark.parametrize("name", mostly_slow(SPLITS, ["gpt2", "llama3"]))
def test_the_split_on_every_kind_of_code_point(name):
    split = SPLITS[name]
    # Each code point between a letter, a number, another and itself: where its class differs the split does.
    codes = [c for c in [*range(0x3400), *range(0xA000, 0x1F000, 3)] if not 0xD800 <= c < 0xE000]
    assert_split_alike(split, [f"a{chr(c)}1{chr(c)}!{chr(c)}{chr(c)} b" for c in codes])


@pytest.mark.parametrize("ignore_merges", [False, True])
@pytest.mark.parametrize("split", ["smollm", "llama3", "qwen2"])
def test_ids_are_those_offline_with_every_split(split, ignore_merges, training_text):
    learned = ByteBPETokenizer.train([training_text], vocab_size=500, split=split)
    roles = {"bos_token": learned.bos_token, "eos_token": learned.eos_token, "pad_token": learned.pad_token}
    tokenizer = ByteBPETokenizer(
        learned.vocab,
        learned.merges[:-80],
        special_tokens=learned.special_tokens,
        split=split,
        ignore_merges=ignore_merges,
        **roles,
    )
    texts = HARD_CASES + random_texts(1000, seed=8)
    assert_same_ids(tokenizer.in_graph().encode(strings(texts)), tokenizer.encode_batch(texts))


ROLES = {"bos_token": "<|eot|>", "eos_token": "<|eot|>", "pad_token": "<|eot|>"}


def bpe_of(merges, without=b""):
    characters = [c for b, c in enumerate(BYTE_CHARACTERS) if b not in without]
    tokens = dict.fromkeys([*characters, *(left + right for left, right in merges)])
    vocab = {token: i for i, token in enumerate(tokens)}
    return ByteBPETokenizer(vocab, merges, special_tokens={"<|eot|>": len(vocab)}, **ROLES)


@pytest.mark.parametrize("order", ["as trained", "one token made twice", "shuffled"])
@pytest.mark.parametrize("seed", [0, 1])
def test_any_order_of_merges(seed, order):
    """Random merges; the last two orders, which also give pairs twice, are such as training never leaves."""
    rng = random.Random(seed)
    tokens, merges = list("abc"), []
    while len(merges) < 25:
        left, right = rng.choices(tokens, k=2)
        if len(left + right) <= 6 and not (order == "as trained" and left + right in tokens):
            tokens.append(left + right)
            merges.append((left, right))
    if order == "shuffled":
        rng.shuffle(merges)
    tokenizer = bpe_of(merges)
    graph = tokenizer.in_graph()
    assert graph._merge._ordered == (order == "as trained")
    # Words far longer than any token go through the merging ahead of the lowest rank, short ones do not.
    for length in (5, 200):
        texts = ["".join(rng.choices("abc", k=rng.randrange(length))).encode() for _ in range(300)]
        assert_same_ids(graph.encode(strings(texts)), tokenizer.encode_batch(texts))


def test_bytes_without_a_token_are_dropped():
    tokenizer = bpe_of([("a", "b"), ("ab", "a")], without=b"\x04\xc3\xa9\xf5")
    texts = ["aéb".encode(), b"\x04", b"a\x04b", b"a\x04ba \x04\x04 ab", b"", b"ba", b"\x04\x04 x\x04"]
    expected = tokenizer.encode_batch(texts)
    assert tokenizer.decode(expected[0]) == "ab"  # what is dropped inside a word parts nothing
    assert len(expected[0]) == 1
    assert len(expected[1]) == 0
    assert_same_ids(tokenizer.in_graph().encode(strings(texts)), expected)
    more = random_texts(2000, seed=9)
    assert_same_ids(tokenizer.in_graph().encode(strings(more)), tokenizer.encode_batch(more))


def test_no_merges_at_all():
    tokenizer = bpe_of([])
    texts = HARD_CASES
    assert_same_ids(tokenizer.in_graph().encode(strings(texts)), tokenizer.encode_batch(texts))


def test_a_short_word_before_a_long_one():
    """A long word lets pairs merge ahead of the lowest rank of their word, but not of one to their left."""
    tokenizer = bpe_of([("a", "b"), ("ab", "c"), ("c", "d")])
    texts = [b"abcd", b"z" * 10, b"abcd"]
    assert [len(ids) for ids in tokenizer.encode_batch(texts)] == [2, 10, 2]
    assert_same_ids(tokenizer.in_graph().encode(strings(texts)), tokenizer.encode_batch(texts))
