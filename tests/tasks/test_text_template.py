"""Texts in templates: their ids are those of the whole, and what is cut is text; the exported graph does the same."""

import pytest
import tensorflow as tf

from tests.tasks.test_contrastive import WORDS
from tfllm.data.errors import DataError
from tfllm.export.text_reader import without_middle
from tfllm.tasks.classification import Classification
from tfllm.tasks.examples.text_template import TextTemplate
from tfllm.tokenizers import ByteBPETokenizer, SentencePieceTokenizer, WordPieceTokenizer
from tfllm.tokenizers.byte import ByteTokenizer

CORPUS = [" ".join(WORDS), "Review: the film was fine, and so it goes.\nStars: "] * 4
TOKENIZERS = {
    "byte": ByteTokenizer,
    "byte_bpe": lambda: ByteBPETokenizer.train(CORPUS, vocab_size=320),
    "wordpiece": lambda: WordPieceTokenizer.train(CORPUS, vocab_size=200),
    "sentencepiece": lambda: SentencePieceTokenizer.train(CORPUS, vocab_size=320),
}
TEXTS = [
    "bat con fine",
    "",
    "  so  ",
    "é中🤗 hill",
    "fon " * 30,
    "x" * 90,
    "the film was fine " * 9,
    "\nStars:" * 9,
]
TEMPLATES = [("Review: ", "\nStars:"), ("", "!"), ("It was ", ""), ("the film w", "as fine")]


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.mark.parametrize("pieces", TEMPLATES, ids=repr)
def test_what_fits_is_the_whole_and_what_does_not_loses_the_end_of_the_text(tokenizer, pieces):
    room = 20
    found = TextTemplate(tokenizer, pieces, room=room).batch([[text] for text in TEXTS])
    num_cut = 0
    for text, (ids, is_cut) in zip(TEXTS, found, strict=True):
        whole = tokenizer.encode(pieces[0] + text + pieces[1])
        if len(whole) <= room:
            assert ids == whole and not is_cut
            continue
        num_cut += 1
        assert is_cut and len(ids) == room
        end = tokenizer.encode(pieces[1])
        kept = [k for k in range(len(end) + 1) if whole[len(whole) - k :] == end[len(end) - k :]][-1]
        assert ids == [*whole[: room - kept], *whole[len(whole) - kept :]]
        # At most what stands for the blank before a text, or, in "as fine", what joins the letter before it.
        assert kept >= len(end) - 1 or pieces[1] == "as fine"
    assert num_cut >= 2


@pytest.mark.parametrize("pieces", TEMPLATES, ids=repr)
def test_the_exported_graph_cuts_alike(tokenizer, pieces):
    room = 20
    expected = [
        ids for ids, _ in TextTemplate(tokenizer, pieces, room=room).batch([[text] for text in TEXTS])
    ]
    rows = tokenizer.in_graph().encode(tf.strings.join([pieces[0], tf.constant(TEXTS), pieces[1]]))
    end_ids = tokenizer.encode(pieces[1])
    if end_ids:
        found = without_middle(rows, end_ids, room=room).to_list()
    else:
        found = [row[:room] for row in (rows.merge_dims(1, -1) if rows.ragged_rank > 1 else rows).to_list()]
    assert found == expected


def test_of_a_pair_the_longer_loses_first_and_the_template_nothing(tokenizer):
    pieces = ("Review: ", " and ", " stars:")
    template = TextTemplate(tokenizer, pieces, room=40)
    for first, second in [
        ("bat", "so"),
        ("bat " * 40, "so"),
        ("bat", "so " * 40),
        ("bat " * 40, "bat " * 40),
    ]:
        [(ids, is_cut)] = template.batch([[first, second]])
        whole = tokenizer.encode(f"Review: {first} and {second} stars:")
        assert is_cut == (len(whole) > 40) and len(ids) == min(40, len(whole))
        if not is_cut:
            assert ids == whole
            continue
        words = tokenizer.decode(ids).lower()
        words = words.replace(" :", ":")  # of word pieces
        assert words.startswith("review: bat") and words.endswith(" stars:") and words.count("and") == 1
        before, _, behind = words.partition("and")
        if len(first) == len(second):
            assert abs(before.count("bat") - behind.count("bat")) <= 1, words
        else:
            short, found = (first, before) if len(first) < len(second) else (second, behind)
            assert short in found, "the shorter is whole"


def test_a_template_without_room_is_refused(tokenizer):
    with pytest.raises(
        DataError, match=r"task.template takes \d+ tokens of the \d+ that data.seq_len leaves"
    ):
        Classification(class_names=["a", "b"], template="once upon a time " * 9 + "{text}").examples_of(
            tokenizer, seq_len=24, packing=True
        )


def test_pairs_that_nothing_stands_between_need_a_template():
    """GPT-2's tokenizer puts nothing between two texts."""
    settings = {"class_names": ["a", "b"], "pairs": True, "token_types": False}
    with pytest.raises(DataError, match=r"write task.template: '\{text\} / \{text_pair\}' in words of yours"):
        Classification(**settings).examples_of(ByteTokenizer(), seq_len=24, packing=True)
    maker = Classification(**settings, template="{text} => {text_pair}").examples_of(
        ByteTokenizer(), seq_len=24, packing=True
    )
    [(ids, types, is_cut)] = maker.framed([["bat", "con"]])
    assert ByteTokenizer().decode(ids.tolist()) == "bat => con" and not types.any() and not is_cut
    assert "token_type_ids" not in [feature.name for feature in maker.layout.features]
