"""Two files, line by line."""

import gzip

import pytest

from tfllm.data import DataError, ParallelTextSource


def write(folder, **files):
    for name, lines in files.items():
        (folder / name.replace("_", ".")).write_bytes("\n".join(lines).encode() + b"\n")


def pairs(source):
    return [(record.text("source"), record.text("target")) for record in source.records()]


def test_a_line_belongs_to_the_same_line_of_the_other_file(tmp_path):
    write(tmp_path, a_en=["one", "", "three four"], a_fr=["un", "", "trois quatre"])
    source = ParallelTextSource(tmp_path / "a.en", tmp_path / "a.fr")
    assert pairs(source) == [("one", "un"), ("", ""), ("three four", "trois quatre")] == pairs(source)
    assert [record.place for record in source.records()][2] == f"{tmp_path / 'a.en'}:3"
    assert source.fingerprint() != ParallelTextSource(tmp_path / "a.fr", tmp_path / "a.en").fingerprint()


@pytest.mark.parametrize("character", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\r"])
def test_no_other_character_ends_a_line(tmp_path, character):
    write(tmp_path, a_en=[f"one{character}half", "two"], a_fr=["un", "deux"])
    source = ParallelTextSource(tmp_path / "a.en", tmp_path / "a.fr")
    assert pairs(source) == [(f"one{character}half", "un"), ("two", "deux")]


def test_files_of_other_systems_are_read(tmp_path):
    (tmp_path / "a.en").write_bytes("\ufeffone\r\ntwo".encode())  # a mark, returns, no end
    (tmp_path / "a.fr").write_bytes(gzip.compress(b"un\ndeux\n"))
    assert pairs(ParallelTextSource(tmp_path / "a.en", tmp_path / "a.fr")) == [("one", "un"), ("two", "deux")]


def test_several_files_pair_up_by_name(tmp_path):
    write(tmp_path, b_en=["two"], a_en=["one"], b_fr=["deux"], a_fr=["un"])
    source = ParallelTextSource(str(tmp_path / "*.en"), str(tmp_path / "*.fr"))
    assert pairs(source) == [("one", "un"), ("two", "deux")] and "2 pairs of files" in source.describe()
    (tmp_path / "b.fr").unlink()
    with pytest.raises(
        DataError, match=r"data.train.source matches 2 files and data.train.target 1; name as many"
    ):
        ParallelTextSource(str(tmp_path / "*.en"), str(tmp_path / "*.fr"))


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [(3, 5, "a.en has 3 lines and .*a.fr has 5"), (5, 4, "a.fr has 4 lines and .*a.en has 5")],
)
def test_unequal_numbers_of_lines_are_told(tmp_path, a, b, words):
    write(tmp_path, a_en=["x"] * a, a_fr=["y"] * b)
    with pytest.raises(DataError, match=words + ", so a line of the one is not that of the other"):
        list(ParallelTextSource(tmp_path / "a.en", tmp_path / "a.fr").records())


def test_what_is_no_text_is_told(tmp_path):
    write(tmp_path, a_en=["x"], a_fr=["y"])
    (tmp_path / "a.fr").write_bytes("é".encode("latin-1"))
    with pytest.raises(DataError, match=r"a.fr: holds the byte 0xe9, which is not UTF-8"):
        list(ParallelTextSource(tmp_path / "a.en", tmp_path / "a.fr").records())
    with pytest.raises(DataError, match=r"data.test.target='.*none' matches no file"):
        ParallelTextSource(tmp_path / "a.en", str(tmp_path / "none"), section="data.test")
