"""CSV and TSV files as people have them, and what is said of those that are none."""

import csv
import gzip
import random

import pytest

from tests.data.fakes import ByteTokenizer
from tfllm.data import CsvSource, DataError, prepare_rows


def read(path, **settings):
    return [dict(record.fields) for record in CsvSource(path, **settings).records()]


def write(folder, text, name="a.csv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def test_fields_are_what_python_writes(tmp_path):
    """Whatever a field holds, and whatever the dialect."""
    rng = random.Random(0)
    pieces = ["a", "é", "漢", "🤗", ",", ";", "\t", '"', "\n", "\r\n", " ", "'", "|", "\\", "sep=", "\ufeff"]
    rows = [["".join(rng.choices(pieces, k=rng.randint(0, 8))) for _ in range(3)] for _ in range(300)]
    rows = [row for row in rows if any(row)]
    for name, delimiter, quoting in (
        ("a.csv", ",", csv.QUOTE_MINIMAL),
        ("b.tsv", "\t", csv.QUOTE_ALL),
        ("c.TAB", "\t", csv.QUOTE_MINIMAL),
        ("d.csv", ";", csv.QUOTE_MINIMAL),
    ):
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=delimiter, quoting=quoting).writerows([["x", "y", "z"], *rows])
        found = read(tmp_path / name, **({"delimiter": ";"} if delimiter == ";" else {}))
        assert [list(fields.values()) for fields in found] == rows
        assert set(map(tuple, found)) == {("x", "y", "z")}


def test_files_as_programs_write_them(tmp_path):
    expected = [{"text": "one", "label": "1"}, {"text": "two", "label": "2"}]
    for text in (
        "text,label\none,1\ntwo,2",
        "\ufefftext,label\r\none,1\r\ntwo,2\r\n",
        "text,label\rone,1\rtwo,2\r",
        '"text" , label\n\none,1\n\n\ntwo,2\n\n',
    ):
        if '" ,' in text:
            text = text.replace('"text" ,', "text ,")
        assert read(write(tmp_path, text)) == expected
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"text,label\none,1\ntwo,2\n"))
    assert read(tmp_path / "a.csv.gz") == expected
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress(b"text\tlabel\none\t1\ntwo\t2\n"))
    assert read(tmp_path / "b.tsv.gz") == expected
    assert read(write(tmp_path, "text,label\n")) == []


def test_several_files_and_places(tmp_path):
    write(tmp_path, 'text,stars\n"two\nlines",5\nlast,4\n', "a.csv")
    write(tmp_path, "stars,text\n3,x\n", "b.csv")
    source = CsvSource(tmp_path / "*.csv", columns={"label": "stars"})
    records = list(source.records())
    assert [dict(r.fields) for r in records] == [
        {"text": "two\nlines", "label": "5"},
        {"text": "last", "label": "4"},
        {"text": "x", "label": "3"},
    ]
    assert [r.place.rpartition("/")[2] for r in records] == ["a.csv:2", "a.csv:4", "b.csv:2"]
    assert list(source.records()) == records


def test_a_field_may_be_long(tmp_path):
    limit = csv.field_size_limit()
    path = write(tmp_path, "text\n" + "x" * 500_000 + "\n")
    assert len(read(path)[0]["text"]) == 500_000
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        ("", {}, "has no first line with the names of its columns; write one, e.g. text,label"),
        ("text;label\na;1\n", {}, "looks like a semicolon: write data.train.delimiter: ';'"),
        ("text\tlabel\na\t1\n", {}, r"looks like a tab: write data.train.delimiter: '\\t'"),
        ("text,label,text\n", {}, "has the column 'text' twice; rename one of them in its first line"),
        ("text,label\na,1\nb\n", {}, r"a.csv:3: has 1 fields, and the first line names 2 columns \(text, label\)"),
        ("text,label\na,1,2\n", {}, r"a.csv:2: has 3 fields.*put quotes .* or write data.train.on_error: skip"),
        ('text,label\n"a,1\nb,2\n', {}, 'a.csv:2: a quote " is opened and never closed'),
        ('text,label\n"a"b,1\n', {}, 'a.csv:2: a closing quote " is followed by other text'),
        ("text,label\na,1\n", {"columns": {"text": "review"}},
         "a.csv:1: no column 'review', which data.train.columns.text names; the columns are 'text', 'label'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(tmp_path, text, settings, words):
    with pytest.raises(DataError, match=words):
        read(write(tmp_path, text), **settings)


def test_other_encodings_and_files_are_named(tmp_path):
    with pytest.raises(
        DataError, match=r"holds the byte 0xfc, which is not UTF-8; save it as UTF-8.*on_error: skip"
    ):
        read(write(tmp_path, "text\nfür\n", encoding="latin-1"))
    with pytest.raises(DataError, match=r"is text in utf-16.*save it as utf-8"):
        read(write(tmp_path, "text\nx\n", encoding="utf-16"))
    (tmp_path / "a.csv").write_bytes(b"PK\x03\x04" + bytes(60))
    with pytest.raises(DataError, match="is no text but a ZIP archive or an office document"):
        read(tmp_path / "a.csv")


def test_broken_lines_are_skipped_and_counted(tmp_path):
    write(tmp_path, 'text,label\na,1\nb\n"c"d,1\ne,2\n', "a.csv")
    write(tmp_path, "text,label\nü,1\n", "b.csv", encoding="latin-1")
    source = CsvSource(tmp_path / "*.csv", on_error="skip")
    assert [r.fields["text"] for r in source.records()] == ["a", "e"]
    assert source.skipped == 3
    [notice] = source.notices
    assert "a.csv:3: has 1 fields" in notice


def test_a_column_of_text_is_trained_on_and_one_that_is_missing_is_told(tmp_path):
    def rows(path, **settings):
        source = CsvSource(path, **settings)
        return prepare_rows(source=source, tokenizer=ByteTokenizer(), seq_len=4, cache_dir=tmp_path / "cache")

    path = write(tmp_path, "review,stars\nhello there,5\n,1\nwell,4\n")
    store = rows(path, columns={"text": "review"})
    assert store.num_documents == 2 and store.num_bytes == len("hello therewell")
    with pytest.raises(
        DataError, match=r"a.csv:2: no column 'text'; the columns are 'review', 'stars'; say which"
    ):
        rows(path)
    moved = write(tmp_path, path.read_text(), "b.csv")
    assert rows(moved, columns={"text": "review"}).path == store.path
    assert rows(moved, columns={"text": "stars"}).path != store.path
