"""Altered copies of records: drawn from seed and place, of the training side only, and tags go with their words."""

import collections

import numpy as np
import pytest

from tfllm import experiment
from tfllm.config import ConfigError, config_from_mapping
from tfllm.data.augmentation import Augmentation
from tfllm.data.errors import DataError
from tfllm.data.mixture import stores_of
from tfllm.data.record import Record

TEXT = "Alpha Beta  gamma\nDelta ε Ζήτα"


def altered(text, number=0, copy=0, **settings):
    record = Record({"text": text, "label": "x"}, "file:1")
    return Augmentation(copies=1, **settings).altered(record, ("text",), number, copy).fields["text"]


def test_shares_are_those_asked_for():
    text = " ".join(f"Word{i}" for i in range(50))
    dropped = [len(altered(text, n, word_dropout=0.3).split()) for n in range(400)]
    assert 1 - np.mean(dropped) / 50 == pytest.approx(0.3, abs=0.01)
    small = [altered(text, n, lowercase=0.25).islower() for n in range(2000)]
    assert np.mean(small) == pytest.approx(0.25, abs=0.03)
    wrong = [
        sum(
            one != other for one, other in zip(altered(text, n, typos=0.2).split(), text.split(), strict=True)
        )
        for n in range(400)
    ]
    # Two neighbours that are equal may change their places unseen.
    assert np.mean(wrong) / 50 == pytest.approx(0.2, abs=0.015)


def test_a_mistake_is_one_letter_left_out_doubled_or_before_its_neighbour():
    kinds = collections.Counter()
    for number in range(300):
        word = altered("stone", number, typos=1.0)
        if len(word) == 4:
            kinds["out"] += 1
            assert any(word == "stone"[:i] + "stone"[i + 1 :] for i in range(1, 5))
        elif len(word) == 6:
            kinds["double"] += 1
            assert any(word == "stone"[:i] + "stone"[i] + "stone"[i:] for i in range(1, 5))
        else:
            kinds["swapped"] += 1
            assert sorted(word) == sorted("stone") and word != "stone"
    assert min(kinds.values()) > 60 and len(kinds) == 3


@pytest.mark.parametrize(
    "text", [TEXT, "", "  ", "one", "中文没有空格", "a\n\n b", "1 2 3", "🤗🤗", "İstanbul x"]
)
def test_what_stays_is_what_was_there(text):
    """Words, and what stands behind each, stay as they are; something is always left, and all of it is drawn anew."""
    seen = set()
    for number in range(60):
        for copy in (0, 1):
            one = altered(text, number, copy, word_dropout=0.5)
            assert one == altered(text, number, copy, word_dropout=0.5)
            left = iter(text.split())
            assert all(word in left for word in one.split()), "in their order"
            assert bool(one.split()) == bool(text.split())
            seen.add(one)
    assert len(seen) > 1 or len(text.split()) < 2


def test_a_seed_a_record_and_a_copy_each_draw_their_own():
    text = " ".join(map(str, range(100)))
    drawn = {altered(text, n, c, word_dropout=0.5, seed=s) for n in (0, 1) for c in (0, 1) for s in (0, 1)}
    assert len(drawn) == 8


def test_tags_go_with_their_words():
    tokens, tags = [f"Word{i}" for i in range(30)], [f"T{i}" for i in range(30)]
    record = Record({"tokens": tokens, "tags": tags, "text": " ".join(tokens)})
    for number in range(50):
        settings = Augmentation(copies=1, word_dropout=0.3, typos=0.5, lowercase=0.5)
        fields = settings.altered(record, ("tokens",), number, 0).fields
        assert len(fields["tokens"]) == len(fields["tags"]) < 30
        assert fields["text"] == " ".join(fields["tokens"])
        plain = Augmentation(copies=1, word_dropout=0.3).altered(record, ("tokens",), number, 0).fields
        assert [f"T{word[4:]}" for word in plain["tokens"]] == plain["tags"]
    for wrong in ({"text": "a b", "spans": [[0, 1, "X"]]}, {"tokens": ["a"], "tags": []}, {"tokens": "a b"}):
        with pytest.raises(DataError, match=r"file:7: data.augment alters words.* give tokens and tags"):
            Augmentation(copies=1, typos=0.5).altered(Record(wrong, "file:7"), ("tokens",), 0, 0)


def config_of(folder, **augment):
    data = {"train": {"type": "csv", "path": str(folder / "a.csv")}, "seq_len": 48, "packing": False}
    data |= {"validation_fraction": 0.3, "test_fraction": 0.2, "cache_dir": str(folder / "rows")}
    model = {"type": "encoder", "num_layers": 1, "hidden_dim": 8, "num_heads": 2}
    return {
        "name": "m",
        "task": "classification",
        "tokenizer": "byte",
        "model": model,
        "data": {**data, "num_workers": 1, "augment": augment},
    }


def test_only_what_is_trained_on_is_altered_and_numbers_stay(tmp_path):
    lines = [f"Text {i} of some words,{'ab'[i % 2]}" for i in range(60)]
    (tmp_path / "a.csv").write_text("text,label\n" + "\n".join(lines))
    made = {}
    for copies in (0, 2):
        settings = {"copies": copies, "word_dropout": 0.3} if copies else {}
        config = config_from_mapping(config_of(tmp_path, **settings))
        config = experiment.with_labels(config, notify=lambda words: None)
        prepared = experiment.prepare(config)
        made[copies] = prepared
    for side in ("validation", "test"):
        one, other = (
            next(iter(stores_of(getattr(each, side)))).read(range(getattr(each, side).num_rows))
            for each in made.values()
        )
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    plain, more = made[0].train, made[2].train
    assert more.num_rows == 3 * plain.num_rows and more.num_documents == plain.num_documents
    rows = more.read(range(more.num_rows))
    by_number = collections.defaultdict(list)
    for ids, number, label in zip(rows["token_ids"], rows["example_ids"], rows["labels"], strict=True):
        by_number[int(number[0])].append((made[2].tokenizer.decode(ids.tolist()).rstrip("\0"), int(label[0])))
    for number, copies in by_number.items():
        texts = [text for text, _ in copies]
        assert len(texts) == 3 and any(f"Text {number} of some words" in text for text in texts)
        assert {label for _, label in copies} == {number % 2}
    assert sum(len(set(copies)) > 1 for copies in by_number.values()) > len(by_number) / 2


@pytest.mark.parametrize(
    ("augment", "more", "words"),
    [
        ({"copies": 1}, {}, "data.augment.copies=1 makes copies in which nothing differs"),
        ({"typos": 0.1}, {}, "data.augment.copies=0 makes none to be altered"),
        ({"copies": -1, "typos": 0.1}, {}, "data.augment.copies"),
        ({"copies": 1, "word_dropout": 1.0}, {}, "data.augment.word_dropout"),
        (
            {"copies": 1, "typos": 0.1},
            {"task": "span_qa"},
            "data.augment.copies=1 is not for task.type=span_qa, in whose texts nothing may be altered",
        ),
        (
            {"copies": 1, "typos": 0.1},
            {"task": {"type": "contrastive", "twins": True}},
            "data.augment.copies=1 is not for task.type=contrastive",
        ),
    ],
)
def test_what_cannot_be_is_told_by_the_config(tmp_path, augment, more, words):
    with pytest.raises(ConfigError) as caught:
        config_from_mapping({**config_of(tmp_path, **augment), **more})
    assert words in str(caught.value)
