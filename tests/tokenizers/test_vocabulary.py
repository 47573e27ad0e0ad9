"""What ids stand for and which tokens play which part, and looking texts up among known ones in a graph."""

import dataclasses
import pickle

import pytest
import tensorflow as tf

from tfllm.tokenizers import ByteTokenizer, TokenizerError
from tfllm.tokenizers.added_token import AddedToken
from tfllm.tokenizers.framing import Framing
from tfllm.tokenizers.graph.lookup import Lookup
from tfllm.tokenizers.vocabulary import Vocabulary

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
