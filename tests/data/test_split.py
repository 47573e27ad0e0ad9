import pytest

from tests.data.fakes import words
from tfllm.data import DataError, split_of


def sides(texts, **settings):
    return [split_of(text, **{"fraction": 0.1, "seed": 0, **settings}) for text in texts]


def test_the_fraction_is_held_out_and_the_seed_moves_it():
    texts = words(4000)
    held_out = sides(texts).count("validation")
    assert 320 < held_out < 480  # 400 expected, 4 standard deviations of 19
    assert sides(texts) == sides(texts)
    assert sides(texts, seed=1) != sides(texts)


def test_a_document_falls_on_one_side_whatever_stands_around_it():
    texts = words(50)
    alone = dict(zip(texts, sides(texts), strict=True))
    assert sides(texts[::-1] * 2) == [alone[text] for text in texts[::-1] * 2]


def test_a_larger_fraction_keeps_what_was_held_out():
    texts = words(500)
    small, large = sides(texts, fraction=0.05), sides(texts, fraction=0.2)
    assert all(b == "validation" for a, b in zip(small, large, strict=True) if a == "validation")


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_the_fraction_is_checked(fraction):
    with pytest.raises(DataError, match="fraction"):
        split_of("text", fraction=fraction, seed=0)
