"""Which tokens are hidden: as many as asked for, of every kind of row, and by nothing but the row's seed."""

import numpy as np
import pytest
import tensorflow as tf

from tfllm.tasks.masking import mask, most_masked

MASK, V = 99, 100
RANDOM_IDS = np.arange(10, 90)
SPLIT = (0.8, 0.1, 0.1)


def rows_of(number, length, *, words=1, padding=0, seed=0):
    """Rows of two segments, each with a token before and behind its words, and padding at the end."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(10, 90, [number, length])
    real = length - padding
    half = real // 2
    segments = np.zeros([number, length], int)
    segments[:, :half], segments[:, half:real] = 1, 2
    numbers = np.zeros([number, length], int)
    for start, stop in ((1, half - 1), (half + 1, real - 1)):
        numbers[:, start:stop] = np.arange(stop - start) // words + 1
    return {
        "token_ids": tf.constant(ids, tf.int32),
        "words": tf.constant(numbers, tf.int32),
        "segment_ids": tf.constant(segments, tf.int32),
        "row_seeds": tf.constant(rng.integers(-(2**31), 2**31, [number]), tf.int32),
    }


def hide(rows, rate=0.15, split=SPLIT, whole_words=False):
    settings = {"rate": rate, "split": split, "whole_words": whole_words}
    graph = tf.function(
        lambda rows: mask(rows, mask_id=MASK, random_ids=RANDOM_IDS, **settings), autograph=False
    )
    return {name: x.numpy() for name, x in graph(rows).items()}


def hidden_places(made, length):
    """bool [B, T], from the positions that the loss reads."""
    places = np.zeros([len(made["token_ids"]), length], bool)
    for row, (positions, weights) in enumerate(
        zip(made["masked_positions"], made["masked_weights"], strict=True)
    ):
        chosen = positions[weights > 0]
        assert len(set(chosen.tolist())) == len(chosen)
        places[row, chosen] = True
    return places


@pytest.mark.parametrize(("whole_words", "words"), [(False, 1), (False, 3), (True, 1), (True, 3)], ids=str)
def test_a_million_draws(whole_words, words):
    rows = rows_of(9000, 128, words=words, padding=8)
    made = hide(rows, whole_words=whole_words)
    places = hidden_places(made, 128)
    maskable = rows["words"].numpy() > 0
    assert maskable.sum() > 1e6
    assert not places[~maskable].any(), "never a token around the text, nor padding"
    share = places.sum() / maskable.sum()
    assert abs(share - 0.15) < 4 * np.sqrt(0.15 * 0.85 * words / maskable.sum())
    before, after = rows["token_ids"].numpy(), made["token_ids"]
    np.testing.assert_array_equal(after[~places], before[~places])
    kinds = np.array(
        [(after[places] == MASK).sum(), ((after[places] != MASK) & (after[places] != before[places])).sum()]
    )
    kinds = np.append(kinds, places.sum() - kinds.sum())
    # One in 80 of the tokens drawn is the one that was there.
    expected = places.sum() * np.array([0.8, 0.1 * 79 / 80, 0.1 + 0.1 / 80])
    assert ((kinds - expected) ** 2 / expected).sum() < 13.8, "chi-squared, 2 degrees, one in a thousand"
    drawn = after[places & (after != MASK) & (after != before)]
    counts = np.bincount(drawn, minlength=V)
    assert counts[:10].sum() == counts[90:].sum() == 0 and counts[10:90].min() > 0
    chosen = made["masked_weights"] > 0
    np.testing.assert_array_equal(
        made["masked_targets"][chosen],
        np.take_along_axis(before, made["masked_positions"], axis=1)[chosen],
    )


def test_words_are_hidden_whole():
    rows = rows_of(500, 64, words=3, padding=5)
    places = hidden_places(hide(rows, whole_words=True), 64)
    number = rows["segment_ids"].numpy() * 1000 + rows["words"].numpy()
    for row in range(500):
        hidden = set(number[row, places[row]].tolist())
        assert hidden and not hidden & set(number[row, ~places[row]].tolist())


def test_every_place_is_as_likely():
    rows = rows_of(20_000, 32, words=2)
    places = hidden_places(hide(rows, whole_words=True), 32)
    shares = places.mean(axis=0)[rows["words"].numpy()[0] > 0]
    assert np.abs(shares - 0.15).max() < 0.015


def test_a_row_is_masked_alike_wherever_it_stands():
    rows = rows_of(8, 24, words=2, padding=3)
    whole = hide(rows, whole_words=True)
    for size in (1, 3):
        part = hide({name: x[2 : 2 + size] for name, x in rows.items()}, whole_words=True)
        for name in part:
            np.testing.assert_array_equal(part[name], whole[name][2 : 2 + size])
    again = hide({**rows, "row_seeds": rows["row_seeds"] + 1}, whole_words=True)
    assert (again["token_ids"] != whole["token_ids"]).any(axis=1).all(), "another epoch, another mask"


def test_short_and_empty_rows():
    rows = rows_of(400, 8)
    made = hide(rows)
    assert 0.1 < hidden_places(made, 8).sum() / (rows["words"].numpy() > 0).sum() < 0.2
    empty = {**rows, "words": tf.zeros_like(rows["words"])}
    made = hide(empty)
    assert made["masked_weights"].sum() == 0
    np.testing.assert_array_equal(made["token_ids"], rows["token_ids"])
    one = {name: x[:, :1] if x.shape.rank == 2 else x for name, x in rows.items()}
    assert hide({**one, "words": tf.ones_like(one["words"])}, rate=0.5)["masked_positions"].shape == (400, 1)


def test_a_word_longer_than_there_is_room_for():
    """Its first tokens are hidden; those beyond are neither hidden nor learned."""
    rows = rows_of(300, 256, words=200)
    made = hide(rows, rate=0.3, whole_words=True)
    limit = most_masked(256, 0.3)
    places = hidden_places(made, 256)
    assert places.sum(axis=1).max() == limit
    changed = made["token_ids"] != rows["token_ids"].numpy()
    assert not changed[~places].any()


def test_all_and_nothing():
    rows = rows_of(50, 16)
    kept = hide(rows, split=(0.0, 0.0, 1.0))
    np.testing.assert_array_equal(kept["token_ids"], rows["token_ids"])
    assert kept["masked_weights"].sum() > 0
    masked = hide(rows, rate=0.99, split=(1.0, 0.0, 0.0))
    assert (masked["token_ids"] == MASK).sum() == masked["masked_weights"].sum() > 0.9 * 12 * 50
