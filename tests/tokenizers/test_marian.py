"""Marian's pair of SentencePiece models, beside transformers' ids and texts."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from make_goldens import FRAMED, texts

from tfllm.tokenizers import TokenizerError, read_tokenizer
from tfllm.tokenizers.files.extension import with_special_tokens
from tfllm.tokenizers.sentencepiece_model import parsed_model

ROOT = Path(__file__).parents[2]
GOLDENS = Path(__file__).parent / "goldens"
PEERS = os.environ.get("TFLLM_PEERS")


@pytest.fixture(scope="module")
def answers():
    return json.loads((GOLDENS / "goldens.json").read_text(encoding="utf-8"))["marian"]


@pytest.fixture(scope="module")
def tokenizer():
    return read_tokenizer(GOLDENS / "marian")


def encode(graph, given):
    return graph.encode(tf.constant(np.array([text.encode() for text in given], dtype=object))).to_list()


def test_ids_are_those_of_transformers(tokenizer, answers):
    for own, name in ((tokenizer, "ids"), (tokenizer.target, "target")):
        assert [ids.tolist() for ids in own.encode_batch(texts())] == answers[name]
        assert encode(own.in_graph(), texts()) == answers[name]
    assert [*tokenizer.prefix_ids, *tokenizer.encode(FRAMED), *tokenizer.suffix_ids] == answers["framed"]


def test_texts_are_those_of_transformers(tokenizer, answers):
    graph = tokenizer.in_graph()
    ids = tf.ragged.constant(answers["some"], tf.int32, row_splits_dtype=tf.int64)
    for name, skip in (("decoded", True), ("whole", False)):
        expected = answers[name]
        assert [tokenizer.decode(row, skip_special_tokens=skip) for row in answers["some"]] == expected
        found = graph.decode(ids, skip_special_tokens=skip).numpy()
        assert [text.decode() for text in found] == expected


def test_the_code_of_a_language_is_one_token(tokenizer):
    code = tokenizer.vocab[">>fr<<"]
    the = tokenizer.encode("the")
    assert tokenizer.encode(">>fr<<the") == tokenizer.encode(">>fr<< the") == [code, *the]
    assert tokenizer.encode(">>xx<<the") == [tokenizer.unk_id, *the]
    assert tokenizer.encode("the>>fr<<")[0] != code and tokenizer.encode(">>fr")[0] != code
    ids, places = tokenizer.encode_with_offsets(">>fr<<the</s>")
    assert ids == [code, *the, tokenizer.eos_id] and places[0] == (0, 6) and places[-1] == (9, 13)
    assert encode(tokenizer.in_graph(), [">>fr<<the", ">>a\nb<<", ""]) == [
        [code, *the],
        [tokenizer.unk_id],
        [],
    ]


def test_it_is_saved_as_transformers_has_it(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "source.spm",
        "target.spm",
        "tokenizer_config.json",
        "vocab.json",
    ]
    again = read_tokenizer(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint != tokenizer.target.fingerprint
    assert (again.roles, again.bos_id, again.suffix_ids) == (tokenizer.roles, tokenizer.pad_id, (0,))


def test_it_gets_no_more_tokens(tokenizer):
    with pytest.raises(TokenizerError, match="'<end>' cannot be added to a tokenizer of type marian"):
        with_special_tokens(tokenizer, ["<end>"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("target.spm", None, "target.spm: must be a readable file"),
        ("source.spm", b"x" * 9, "must be a whole SentencePiece model"),
        ("vocab.json", b'{"</s>": "a"}', "must map each piece to an integer id"),
        ("vocab.json", b'{"</s>": 0, "<unk>": 1}', "pad_token='<pad>' must be in the vocabulary"),
        ("vocab.json", b'{"</s>": 0, "<unk>": 1, "<pad>": 1}', "no other token's"),
        ("tokenizer_config.json", b'{"separate_vocabs": true}', "separate_vocabs=true must be false"),
    ],
)
def test_a_damaged_folder_is_refused(name, content, message, tmp_path):
    shutil.copytree(GOLDENS / "marian", tmp_path / "it")
    (tmp_path / "it" / name).unlink()
    if content is not None:
        (tmp_path / "it" / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        read_tokenizer(tmp_path / "it")


def test_a_model_that_its_library_refuses_is_named(tmp_path):
    shutil.copytree(GOLDENS / "marian", tmp_path / "it")
    path = tmp_path / "it" / "source.spm"
    model = parsed_model(path, path.read_bytes())
    model.pieces.add(piece=model.pieces[5].piece, score=0.0, type=model.pieces[5].type)  # twice
    path.write_bytes(model.SerializeToString())
    with pytest.raises(TokenizerError, match="must be one that its library loads"):
        read_tokenizer(tmp_path / "it")


def test_both_languages_leave_the_same_roles_open(tokenizer):
    assert tokenizer.target.unset_roles == tokenizer.unset_roles == {"bos_token"}


@pytest.mark.skipif(PEERS is None, reason="TFLLM_PEERS names no interpreter with transformers")
def test_the_goldens_are_what_transformers_gives_now(tmp_path):
    for folder in GOLDENS.iterdir():
        if folder.is_dir() and folder.name != "marian":  # which is made alike each time
            shutil.copytree(folder, tmp_path / folder.name)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [PEERS, "-W", "ignore", "-m", "tests.tokenizers.make_goldens", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, env=environment, capture_output=True)
    made = json.loads((tmp_path / "goldens.json").read_text(encoding="utf-8"))
    assert made == json.loads((GOLDENS / "goldens.json").read_text(encoding="utf-8"))
