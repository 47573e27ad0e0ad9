"""What ids stand for and which tokens play which part, and looking texts up among known ones in a graph."""

import dataclasses
import pickle
from pathlib import Path

import pytest
import tensorflow as tf

from tfllm.tokenizers import ByteTokenizer, TokenizerError, read_tokenizer
from tfllm.tokenizers.added_token import AddedToken
from tfllm.tokenizers.framing import Framing
from tfllm.tokenizers.graph.lookup import Lookup
from tfllm.tokenizers.vocabulary import Vocabulary

GOLDENS = Path(__file__).parent / "goldens"
ROLES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}


def vocabulary(**changed):
    given = {"special_tokens": {"<s>": 0, "</s>": 1}, "roles": ROLES, **changed}
    return Vocabulary.of([b"<s>", b"</s>", b"a", b"bc"], **given)


def test_what_follows_is_filled_in():
    made = vocabulary(added_tokens=[AddedToken("bc", 3, special=False), AddedToken("</s>", 1, rstrip=True)])
    assert made.framing == Framing(prefix=(0,)) and made.skipped_ids == made.special_ids == {0, 1}
    assert [(token.content, token.special) for token in made.added_tokens] == [
        ("<s>", True),
        ("</s>", True),
        ("bc", False),
    ]
    assert [token.content for token in made.cut_tokens] == ["bc"]
    assert (made.vocab_size, made.id_of("pad_token"), made.id_or_none("unk_token")) == (4, 1, None)
    assert made.token_byte_lengths().tolist() == [0, 0, 1, 2]
    assert pickle.loads(pickle.dumps(made)) == made


def test_it_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        vocabulary().roles = {}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"roles": {**ROLES, "mask_token": "<mask>"}},
            "mask_token='<mask>' must be one of the special tokens",
        ),
        ({"roles": {**ROLES, "bos_token": "?"}}, r"bos_token='\?' must be one of the special tokens"),
        (
            {"framing": Framing(suffix=(4,))},
            r"id 4, which stands around texts, must be in \[0, vocab_size=4\)",
        ),
    ],
)
def test_what_names_no_token_is_refused(changed, message):
    with pytest.raises(TokenizerError, match=message):
        vocabulary(**changed)


def test_a_tokenizer_and_its_graph_have_the_same_one():
    tokenizer = ByteTokenizer()
    graph = tokenizer.in_graph()
    assert graph.vocabulary is tokenizer.vocabulary
    names = ("vocab_size", "bos_id", "eos_id", "pad_id", "unk_id", "mask_id", "prefix_ids", "suffix_ids")
    for name in (*names, "separator_ids", "special_tokens"):
        assert getattr(graph, name) == getattr(tokenizer, name)


def test_texts_are_found_among_known_ones():
    known = [b"b", b"", b"a", "ä".encode()]
    found, place = Lookup(known)(tf.constant([b"a", b"b", b"c", b"", "ä".encode(), b"aa"]))
    assert found.numpy().tolist() == [True, True, False, True, True, False]
    assert place.numpy()[found.numpy()].tolist() == [2, 0, 1, 3]
    assert Lookup([])(tf.constant([b"", b"a"]))[0].numpy().tolist() == [False, False]


@pytest.mark.parametrize("name", ["bert", "gemma", "gpt2", "llama", "marian", "t5"])
def test_every_kind_travels_to_another_process(name):
    tokenizer = read_tokenizer(GOLDENS / name)
    text = "a text\n with 中 <s> words</s>"
    trusted = tokenizer.encode_with_special(text)  # what is made for it travels as well
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.fingerprint == tokenizer.fingerprint and again.vocabulary == tokenizer.vocabulary
    assert (again.encode(text), again.encode_with_special(text)) == (tokenizer.encode(text), trusted)
