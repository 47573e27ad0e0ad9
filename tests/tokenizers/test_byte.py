import json
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from hard_texts import HARD_CASES, random_texts

from tfllm.tokenizers import ByteTokenizer, TokenizerError, read_tokenizer
from tfllm.tokenizers.repair import repair_text


def test_ids_are_bytes_and_then_special_tokens():
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("Hé") == [72, 195, 169]
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (
        259,
        256,
        257,
        258,
    )
    assert tokenizer.special_ids == {256, 257, 258}


def test_decode_inverts_encode_up_to_repair(tokenizer):
    texts = HARD_CASES + random_texts(500, seed=1)
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert ids.dtype == np.int32
        assert tokenizer.decode(ids) == repair_text(text)
        assert tokenizer.decode_bytes(ids) == repair_text(text).encode()


def test_encode_is_encode_batch(tokenizer):
    for text in HARD_CASES:
        assert tokenizer.encode(text) == tokenizer.encode_batch(["before", text])[1].tolist()
    assert tokenizer.encode_batch([]) == []


def test_damage_is_visible(tokenizer):
    assert tokenizer.decode(tokenizer.encode(b"a\xf0\x9f\x98b")) == "a\ufffdb"
    assert tokenizer.decode(tokenizer.encode("a\ud800b\udfff")) == "a\ufffdb\ufffd"


def test_special_names_in_a_text_are_text(tokenizer):
    text = "".join(tokenizer.special_tokens)
    assert not tokenizer.special_ids & set(tokenizer.encode(text))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_decoded_only_on_request(tokenizer):
    ids = [tokenizer.bos_id, *tokenizer.encode("hi"), tokenizer.eos_id]
    assert tokenizer.decode(ids) == "hi"
    shown = tokenizer.decode(ids, skip_special_tokens=False)
    assert shown == f"{tokenizer.bos_token}hi{tokenizer.eos_token}"


def test_byte_lengths_add_up_to_the_text(tokenizer):
    text = "The naïve café costs 5 €, 🤗!\n"
    lengths = tokenizer.token_byte_lengths()
    assert lengths.dtype == np.int32 and lengths.shape == (tokenizer.vocab_size,)
    assert lengths[tokenizer.encode(text)].sum() == len(text.encode())
    assert lengths[list(tokenizer.special_ids)].sum() == 0


def test_labels():
    tokenizer = ByteTokenizer()
    labels = [tokenizer.token_label(i) for i in (32, 10, 9, 13, 0, 65, 0xF0, 256)]
    assert labels == ["␣", "⏎", "⇥", "␍", "\\x00", "A", "\\xF0", "<|bos|>"]


@pytest.mark.parametrize("token_id", [-1, 259])
def test_an_id_outside_the_vocabulary_is_refused(token_id):
    with pytest.raises(TokenizerError, match=rf"token id {token_id} must be in \[0, vocab_size=259\)"):
        ByteTokenizer().decode([65, token_id])


def test_one_text_is_not_a_batch(tokenizer):
    with pytest.raises(TokenizerError, match="pass \\[text\\]"):
        tokenizer.encode_batch("text")
    with pytest.raises(TypeError, match="must be str or bytes, not int"):
        tokenizer.encode_batch([5])


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new" / "folder")
    loaded = read_tokenizer(tmp_path / "new" / "folder")
    assert type(loaded) is type(tokenizer)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.special_tokens == tokenizer.special_tokens
    assert (loaded.bos_id, loaded.eos_id, loaded.pad_id) == (
        tokenizer.bos_id,
        tokenizer.eos_id,
        tokenizer.pad_id,
    )
    for ours, theirs in zip(tokenizer.encode_batch(HARD_CASES), loaded.encode_batch(HARD_CASES), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_save_and_load_keeps_other_special_tokens(tmp_path):
    tokenizer = ByteTokenizer(
        bos_token="<s>", eos_token="</s>", pad_token="</s>", extra_special_tokens=["<u>"]
    )
    assert (tokenizer.vocab_size, tokenizer.pad_id) == (259, tokenizer.eos_id)
    tokenizer.save(tmp_path)
    assert read_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint != ByteTokenizer().fingerprint


@pytest.mark.parametrize("name", ["", "\ud800"])
def test_a_bad_special_name_is_refused(name):
    with pytest.raises(TokenizerError, match="non-empty valid text"):
        ByteTokenizer(bos_token=name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, "holds no tokenizer: it must have tokenizer.json"),
        ("tokenizer.json", "{", "must be UTF-8 JSON"),
        ("tokenizer.json", "[]", "must hold a JSON object, not list"),
        ("tokenizer.json", "{}", "model.type='None' must be"),
        ("tokenizer_config.json", "{", "must be UTF-8 JSON"),
        ("tokenizer_config.json", '{"chat_template": 5}', "chat_template=5 must be a text"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path, name, content, message):
    ByteTokenizer().save(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(TokenizerError, match=message):
        read_tokenizer(tmp_path)


def test_importing_tokenizers_does_not_import_tensorflow():
    code = (
        "import sys, tfllm.tokenizers as t; t.ByteTokenizer().encode('a'); print('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_saved_roles_are_those_transformers_reads(tmp_path):
    ByteTokenizer().save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["eos_token"] == "<|eos|>" and config["tokenizer_class"] == "PreTrainedTokenizerFast"
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert library.encode("Hé").ids == [256, 72, 195, 169]  # bos stands before a text
    assert library.decode([72, 195, 169]) == "Hé"
