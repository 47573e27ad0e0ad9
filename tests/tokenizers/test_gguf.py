import numpy as np
import pytest
import tensorflow as tf
from reference import hard_texts

from scripts.checks.gemma_gguf import write_gemma
from tfllm.convert.gguf_file import GgufFile
from tfllm.tokenizers import TokenizerError, read_tokenizer
from tfllm.tokenizers.files.gguf import read_gguf_tokenizer


@pytest.fixture
def fields(byte_bpe):
    """A GGUF file's fields for a vocabulary with a tool's token and an unused one."""
    tokens = sorted(byte_bpe.vocab, key=lambda token: byte_bpe.vocab[token])
    types = [3 if token in byte_bpe.special_tokens else 1 for token in tokens]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.bos_token_id": byte_bpe.bos_id,
        "tokenizer.ggml.eos_token_id": byte_bpe.eos_id,
        "tokenizer.ggml.padding_token_id": byte_bpe.pad_id,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": "{{ messages }}",
        "tokenizer.ggml.tokens": [*tokens, "<tool>", "[PAD1]"],
        "tokenizer.ggml.token_type": [*types, 4, 5],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in byte_bpe.merges],
    }


def read(fields):
    return read_gguf_tokenizer(fields, lambda key: fields.get(key, []), "model.gguf")


def test_byte_level_bpe(fields, byte_bpe, tmp_path):
    tokenizer = read(fields)
    # An unused id behind all others is none.
    assert tokenizer.vocab_size == byte_bpe.vocab_size + 1 and tokenizer.rules.split.name == "smollm"
    assert tokenizer.special_tokens == byte_bpe.special_tokens
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids) == ((byte_bpe.bos_id,), ())
    assert tokenizer.chat_template == "{{ messages }}"
    assert tokenizer.encode("return<tool>") == [*byte_bpe.encode("return"), byte_bpe.vocab_size]
    tokenizer.save(tmp_path)
    assert read_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", "rwkv", "tokenizer.ggml.model='rwkv' must be one of 'gpt2'"),
        ("model", None, "tokenizer.ggml.model=None must be one of"),
        ("pre", "viking", "tokenizer.ggml.pre='viking' is not known"),
        ("pre", None, "tokenizer.ggml.pre=None is not known"),
        ("tokens", [], "must be lists of one length"),
        ("token_type", [1], "must be lists of one length"),
        ("merges", ["a b c"], "tokenizer.ggml.merges must be pairs"),
        ("merges", ["a \u0120\u0120\u0120return"], "must be in the vocabulary"),
        ("bos_token_id", 10**6, "bos_token_id=1000000 must be the id of one of the"),
    ],
)
def test_what_cannot_be_understood_is_refused(fields, key, value, message):
    fields[f"tokenizer.ggml.{key}"] = value
    with pytest.raises(TokenizerError, match=message):
        read(fields)


def test_a_token_twice_is_refused(fields):
    fields["tokenizer.ggml.tokens"][5] = fields["tokenizer.ggml.tokens"][6]
    with pytest.raises(TokenizerError, match="must not hold one token twice"):
        read(fields)


def test_a_gemma_as_llama_cpp_writes_it(tmp_path):
    path = tmp_path / "gemma.gguf"
    library = write_gemma(path)
    file = GgufFile(path)
    tokenizer = read_gguf_tokenizer(file.metadata, file.list_of, path)
    assert (tokenizer.unk_id, tokenizer.bos_id, tokenizer.pad_id, tokenizer.prefix_ids) == (3, 2, 0, (2,))
    assert "mask_token" not in tokenizer.roles  # the file calls it a user's token
    given = [
        text.decode(errors="replace").replace("\u2581", "") for text in hard_texts(600, ["<table>", "\n\n\n"])
    ]
    expected = [row.ids for row in library.encode_batch(given, add_special_tokens=False)]
    assert [ids.tolist() for ids in tokenizer.encode_batch(given)] == expected
    graph = tokenizer.in_graph()
    texts = tf.constant(np.array([text.encode() for text in given], dtype=object))
    assert graph.encode(texts).to_list() == expected
    back = library.decode_batch(expected)
    assert [tokenizer.decode(ids) for ids in expected] == back
    assert [text.decode() for text in graph.decode(graph.encode(texts)).numpy()] == back
    assert tokenizer.decode([3, 2]) == ""
    # Bytes that are in no character: one sign each, as SentencePiece writes them.
    of_bytes = sorted(tokenizer.vocabulary.byte_runs.ids)
    damaged = [of_bytes[byte] for byte in b"a\xe2\x82\xf0\x9f\xa4\x97\xff"]
    assert tokenizer.decode(damaged) == "a\ufffd\ufffd\U0001f917\ufffd"
    assert graph.decode(tf.constant([damaged])).numpy()[0].decode() == "a\ufffd\ufffd\U0001f917\ufffd"
    tokenizer.save(tmp_path / "saved")
    assert read_tokenizer(tmp_path / "saved").fingerprint == tokenizer.fingerprint


def test_bytes_that_are_called_ordinary_are_bytes_all_the_same(tmp_path):
    write_gemma(tmp_path / "gemma.gguf")
    file = GgufFile(tmp_path / "gemma.gguf")
    types = [1 if kind == 6 else kind for kind in file.list_of("tokenizer.ggml.token_type")]

    def list_of(key):
        return types if key.endswith("token_type") else file.list_of(key)

    tokenizer = read_gguf_tokenizer(file.metadata, list_of, "early.gguf")
    ids = tokenizer.encode("a\r\u4e2d")
    assert tokenizer.decode(ids) == "a\r\u4e2d" and 3 not in ids
