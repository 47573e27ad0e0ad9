import pytest

from tests.data.fakes import words
from tfllm.data import DataError, Split, split_of
from tfllm.data.record import Record


def sides(texts, **settings):
    return [split_of(text, **{"validation": 0.1, **settings}) for text in texts]


def test_the_shares_are_held_out():
    texts = words(4000)
    found = sides(texts, test=0.2)
    assert 700 < found.count("test") < 900  # 800 expected, 4 standard deviations of 25
    assert 250 < found.count("validation") < 390  # 10% of the others: 320, 4 of 17
    assert found == sides(texts, test=0.2)


def test_the_seed_moves_what_is_validated_on_and_not_what_is_tested_on():
    texts = words(1000)
    one, other = (sides(texts, test=0.2, seed=seed) for seed in (0, 1))
    assert one != other
    assert [side == "test" for side in one] == [side == "test" for side in other]


def test_what_is_tested_on_says_nothing_of_what_is_validated_on():
    texts = words(2000)
    without = sides(texts)
    among = [side for side, other in zip(without, sides(texts, test=0.5), strict=True) if other == "test"]
    assert 60 < among.count("validation") < 140, "10% of the half that is tested on"


def test_a_document_falls_on_one_side_whatever_stands_around_it():
    texts = words(50)
    alone = dict(zip(texts, sides(texts), strict=True))
    assert sides(texts[::-1] * 2) == [alone[text] for text in texts[::-1] * 2]


@pytest.mark.parametrize("share", ["validation", "test"])
def test_a_larger_share_keeps_what_was_held_out(share):
    texts = words(500)
    small, large = sides(texts, **{share: 0.05}), sides(texts, **{share: 0.2})
    assert all(b == share for a, b in zip(small, large, strict=True) if a == share)


def test_a_split_that_was_recorded_is_found_again():
    assert [split_of(f"text {i}", validation=0.3, seed=7) for i in range(6)] == RECORDED
    assert Split("train", 7, validation=0.3).key == ("train", 0.3, 7), (
        "rows in the caches of users are named by it"
    )


RECORDED = ["train", "train", "train", "validation", "train", "train"]


@pytest.mark.parametrize("share", [1.0, -0.1, float("nan")])
@pytest.mark.parametrize("name", ["validation", "test"])
def test_the_shares_are_checked(name, share):
    with pytest.raises(DataError, match=f"{name} share"):
        Split("train", **{name: share})


def test_the_side_is_checked():
    with pytest.raises(DataError, match="side='dev' of a split must be one of train, validation, test"):
        Split("dev")


def test_records_that_agree_in_a_column_fall_on_one_side():
    records = [Record({"text": f"{i}", "page": page}) for i in range(5) for page in (*words(40), *range(40))]
    found = {}
    for side in ("train", "validation", "test"):
        split = Split(side, validation=0.3, test=0.3, column="page")
        found[side] = {record.value("page") for record in records if split.holds(record, "text")}
    assert all(found.values()) and sum(map(len, found.values())) == 80


@pytest.mark.parametrize("value", [None, 1.5, ["a"], True])
def test_a_column_that_says_nothing_is_named(value):
    record = Record({"text": "a", "page": value}, place="file:3")
    with pytest.raises(
        DataError, match=r"^file:3: data.split_by=page: .* is neither a text nor a whole number"
    ):
        Split("train", validation=0.3, column="page").holds(record, "text")
    with pytest.raises(DataError, match=r"^file:3: no column 'topic'; the columns are 'text', 'page'"):
        Split("train", validation=0.3, column="topic").holds(record, "text")
