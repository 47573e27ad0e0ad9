"""Files as they really are: under other names, compressed otherwise, cut short, linked twice."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import tarfile
import zipfile

import pytest

from tests.data.fakes import ByteTokenizer
from tfllm.data import (
    DataError,
    JsonlSource,
    MixtureSource,
    PythonDocsSource,
    Split,
    TextFilesSource,
    prepare_rows,
)
from tfllm.data.sources import check_apart
from tfllm.data.sources.file_kind import encoding_mark, kind_of
from tfllm.data.sources.files import matching_files


def texts(source):
    return list(source.documents())


def error_of(source):
    with pytest.raises(DataError) as caught:
        texts(source)
    message = str(caught.value)
    assert "\n" not in message and "='" not in message.replace("split_on='", "")
    return message


# Paths


@pytest.mark.parametrize(
    "name",
    [
        "w [x]",
        "a*b",
        "what?",
        "{a,b}",
        "back\\slash",
        "new\nline",
        " blank ",
        "é 漢",
        "-dash",
        "~tilde",
        "[!a]",
    ],
)
def test_what_exists_is_no_pattern(tmp_path, monkeypatch, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / f"{name}.txt").write_text("here")
    (folder / "other.text").write_text("there")
    (tmp_path / "w x").mkdir()
    (tmp_path / "w x" / "w x.txt").write_text("the pattern's")
    assert texts(TextFilesSource(folder / f"{name}.txt")) == ["here"]
    assert texts(TextFilesSource(str(folder / "*.txt"))) == ["here"]
    assert texts(TextFilesSource(str(folder / "**" / "*.text"))) == ["there"]
    monkeypatch.chdir(tmp_path)
    assert texts(TextFilesSource(f"{name}/{name}.txt")) == ["here"]
    assert texts(TextFilesSource(f"{name}/*.txt")) == ["here"]


def test_a_pattern_is_one_where_nothing_has_its_name(tmp_path):
    for name in ("a1", "a2", "b1"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert texts(TextFilesSource(str(tmp_path / "[a]?.txt"))) == ["a1", "a2"]


def test_a_file_counts_once_whatever_leads_to_it(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in ("b", "c"):
        (tmp_path / "in" / f"{name}.txt").write_text(name)
    (tmp_path / "in" / "a_link.txt").symlink_to("c.txt")
    os.link(tmp_path / "in" / "b.txt", tmp_path / "in" / "d.txt")
    (tmp_path / "again").symlink_to("in")
    monkeypatch.chdir(tmp_path)
    spellings = [
        "./in/*.txt",
        "in/b.txt",
        "again/c.txt",
        "../*/in/*.txt",
        str(tmp_path / "in" / "*.txt"),
        "**/*.txt",
    ]
    assert texts(TextFilesSource(spellings)) == ["c", "b"]
    for order in (spellings, spellings[::-1]):
        assert [file.read_text() for file in matching_files(order)] == ["c", "b"]


@pytest.mark.parametrize("pattern", ["**", "**/*.txt", "*/**/*", "a/**/c/**/*.txt", "**/**/*.txt"])
def test_links_in_a_circle_are_entered_once(tmp_path, monkeypatch, pattern):
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    for number in range(4):  # glob would try 4 ** 40 ways
        (tmp_path / "a" / "b" / f"circle{number}").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "b" / "c" / "x.txt").write_text("x")
    (tmp_path / "a" / ".hidden").mkdir()
    (tmp_path / "a" / ".hidden" / "y.txt").write_text("y")
    assert texts(TextFilesSource(str(tmp_path / pattern))) == ["x"]
    monkeypatch.chdir(tmp_path)
    assert texts(TextFilesSource(pattern)) == ["x"]


def test_one_order_for_relative_and_absolute_paths(tmp_path, monkeypatch):
    for name in ("a", "z"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text(name)
    monkeypatch.chdir(tmp_path)
    absolute = texts(TextFilesSource([str(tmp_path / "a" / "x.txt"), str(tmp_path / "z" / "x.txt")]))
    mixed = texts(TextFilesSource([str(tmp_path / "z" / "x.txt"), "a/x.txt"]))
    assert absolute == mixed == ["a", "z"]


def test_what_is_no_file_is_named(tmp_path):
    (tmp_path / "gone.txt").symlink_to("nowhere.txt")
    os.mkfifo(tmp_path / "pipe")
    for name, words in (
        ("gone.txt", "is a link to 'nowhere.txt'"),
        ("pipe", "is a pipe or device"),
        (".", "a folder"),
    ):
        with pytest.raises(DataError, match=words):
            TextFilesSource(tmp_path / name, section="data.validation")
    with pytest.raises(DataError, match=r"data\.validation\.path='\\x00' matches no file"):
        TextFilesSource("\0", section="data.validation")


def test_moved_and_renamed_text_is_the_same_text(tmp_path):
    (tmp_path / "one").mkdir()
    for name in ("a", "b"):
        (tmp_path / "one" / f"{name}.txt").write_text(f"text of {name} " * 9)
    source = TextFilesSource(str(tmp_path / "one" / "*.txt"))
    rows = prepare_rows(source=source, tokenizer=ByteTokenizer(), seq_len=16, cache_dir=tmp_path / "cache")
    (tmp_path / "one").rename(tmp_path / "two")
    (tmp_path / "two" / "b.txt").rename(tmp_path / "two" / "c.txt")
    moved = TextFilesSource(str(tmp_path / "two" / "*"))
    again = prepare_rows(source=moved, tokenizer=ByteTokenizer(), seq_len=16, cache_dir=tmp_path / "cache")
    assert again.identity == rows.identity and again.content == rows.content
    # Other settings, another kind of file: other rows on disk, with the same content.
    (tmp_path / "lines.jsonl.txt").write_bytes(
        gzip.compress("".join(json.dumps({"body": text}) + "\r\n" for text in texts(moved)).encode())
    )
    lines = JsonlSource(tmp_path / "lines.jsonl.txt", "body")
    other = prepare_rows(source=lines, tokenizer=ByteTokenizer(), seq_len=16, cache_dir=tmp_path / "cache")
    assert other.identity != rows.identity and other.content == rows.content
    (tmp_path / "two" / "c.txt").rename(tmp_path / "two" / "0.txt")  # now it comes first
    swapped = TextFilesSource(str(tmp_path / "two" / "*"))
    rows = prepare_rows(source=swapped, tokenizer=ByteTokenizer(), seq_len=16, cache_dir=tmp_path / "cache")
    assert rows.content != again.content


def test_held_out_text_is_not_training_text_under_another_name(tmp_path, monkeypatch, caplog):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(name)
    (tmp_path / "link.txt").symlink_to("a.txt")
    monkeypatch.chdir(tmp_path)
    train = TextFilesSource("a.txt")
    with pytest.raises(DataError, match=r"data\.validation: link\.txt is also text of data\.train"):
        check_apart(MixtureSource([train], [1]), TextFilesSource("link.txt", section="data.validation"))
    assert not caplog.text
    check_apart(train, TextFilesSource(["b.txt", str(tmp_path / "link.txt")]))
    assert "is also text of data.train" in caplog.text
    check_apart(PythonDocsSource(), PythonDocsSource(["topics"]))


# What a file is


def test_gzip_is_read_whatever_its_name(tmp_path):
    packed = gzip.compress(b"one") + gzip.compress(b" two")
    (tmp_path / "a.txt").write_bytes(packed)
    (tmp_path / "b.gz").write_text("plain")
    source = TextFilesSource([tmp_path / "a.txt", tmp_path / "b.gz"])
    assert texts(source) == ["one two", "plain"]
    (tmp_path / "a.txt.gz").write_bytes(packed)
    (tmp_path / "b.txt").write_text("plain")
    named = TextFilesSource([tmp_path / "a.txt.gz", tmp_path / "b.txt"])
    assert named.fingerprint() == source.fingerprint()


def zipped():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.txt", "text")
    return stream.getvalue()


def tarred():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    return stream.getvalue()


FOREIGN = {
    "ZIP archive": zipped(),
    "bzip2": bz2.compress(b"text"),
    "xz-compressed": lzma.compress(b"text"),
    "Zstandard": b"\x28\xb5\x2f\xfd\x04\x00\x19\x00\x00text",
    "Parquet": b"PAR1\x15\x04\x15\x10\x15\x14\x4c" + b"\0" * 30 + b"PAR1",
    "Arrow file": b"ARROW1\x00\x00" + b"\0" * 30,
    "SQLite": b"SQLite format 3\x00\x10\x00",
    "PDF": b"%PDF-1.7\nsome printable start\n",
    "pickle": pickle.dumps({"text": ["a"]}),
    "tar archive": tarred(),
    "gzip twice": gzip.compress(gzip.compress(b"text")),
    "utf-16": "text".encode("utf-16"),
    "utf-32": "text".encode("utf-32"),
    "cut short": gzip.compress(b"text" * 1000)[:-9],
    "other bytes behind its gzip": gzip.compress(b"text") + b"garbage",
    "gzip stream is damaged": gzip.compress(b"text" * 99)[:-8] + b"\0" * 8,
}


@pytest.mark.parametrize("make", [TextFilesSource, JsonlSource])
@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_text_is_named(tmp_path, name, make):
    (tmp_path / "a.txt").write_bytes(FOREIGN[name])
    (tmp_path / "b.txt").write_text('{"text": "good"}')
    source = make(str(tmp_path / "*.txt"), section="data.validation")
    message = error_of(source)
    assert str(tmp_path / "a.txt") in message and name in message
    assert "data.validation.on_error: skip" in message
    skipping = make(str(tmp_path / "*.txt"), on_error="skip")
    assert len(texts(skipping)) == 1 and skipping.skipped == 1
    assert len(skipping.notices) == 1 and name in skipping.notices[0]


def test_the_encoding_to_write_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes("text é".encode("utf-16"))
    for encoding in ("utf-8", "latin-1"):
        assert "write data.train.encoding: utf-16" in error_of(TextFilesSource(tmp_path / "a.txt", encoding))
    for encoding in ("utf-16", "UTF_16", "utf16"):
        assert texts(TextFilesSource(tmp_path / "a.txt", encoding)) == ["text é"]
    (tmp_path / "a.txt").write_bytes("text é".encode("utf-16-le"))  # without a mark it is valid UTF-8
    message = error_of(TextFilesSource(tmp_path / "a.txt", "latin-1"))
    assert "are NUL" in message and "utf-16-le" in message
    (tmp_path / "a.txt").write_bytes("text é".encode("utf-8-sig"))
    assert texts(TextFilesSource(tmp_path / "a.txt")) == ["text é"]
    assert "encoding: utf-8" in error_of(TextFilesSource(tmp_path / "a.txt", "latin-1"))
    for encoding in ("hex", "undefined", "no\0such"):
        with pytest.raises(DataError, match="is not an encoding of text"):
            TextFilesSource(tmp_path / "a.txt", encoding)


@pytest.mark.parametrize(
    "text", ["BZh is short for", "GIF89 was a format", "PK", "PAR1 is a race", "Obj", "x", ""]
)
def test_words_are_no_magic(text):
    assert kind_of(text.encode()) is None and encoding_mark(text.encode()) is None


def test_a_few_nulls_are_told(tmp_path):
    (tmp_path / "a.txt").write_text("long text " * 50 + "\0 and an end")
    source = TextFilesSource(tmp_path / "a.txt")
    assert len(texts(source)) == 1
    assert source.notices == [f"{tmp_path / 'a.txt'} holds 1 NUL characters, the first at character 500"]


@pytest.mark.parametrize(
    ("split_on", "text", "words"),
    [
        ("\n\n", "a\r\n\r\nb", r'their lines end with \\r\\n: write split_on: "\\r\\n\\r\\n"'),
        ("\\n\\n", "a\n\nb", "inside double quotes only"),
        ("<end>", "a b", "is not in the file, so each is one document"),
    ],
)
def test_a_split_that_never_matches_is_told(tmp_path, split_on, text, words):
    (tmp_path / "a.txt").write_bytes(text.encode() * 9)
    source = TextFilesSource(tmp_path / "a.txt", split_on=split_on)
    rows = prepare_rows(source=source, tokenizer=ByteTokenizer(), seq_len=16, cache_dir=tmp_path / "cache")
    assert "data.train.split_on=" in rows.summary and words.replace("\\\\", "\\") in rows.summary
    again = prepare_rows(source=source, tokenizer=ByteTokenizer(), seq_len=16, cache_dir=tmp_path / "cache")
    assert again.summary == rows.summary  # also where rows come from the cache
    assert texts(TextFilesSource(tmp_path / "a.txt", split_on="b")) and not source.skipped


# JSON lines


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[" * 200_000, "not valid JSON|nested too deep"),
        (b'{"text": "a", "deep": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deep"),
        (b'{"text": null}', "must be a string, not null"),
        (b'{"text": ["a"]}', "must be a string, not a list"),
        (b'{"text": "a", "text": "b"}', "has the key 'text' twice"),
        (b'[{"text": "a"}]', "not a list; write each of its items on a line of its own"),
        (b'"text"', "must hold a JSON object, not a text"),
        (b'{"text": "\xed\xa0\x80"}', "is not UTF-8"),
    ],
    ids=range(8),
)
def test_a_strange_line_is_named_or_skipped(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\n' + line + b'\n{"text": "two"}\n')
    with pytest.raises(DataError, match=f"a.jsonl:2: .*({message}).*; or write data.train.on_error: skip"):
        texts(JsonlSource(tmp_path / "a.jsonl"))
    skipping = JsonlSource(tmp_path / "a.jsonl", on_error="skip")
    assert texts(skipping) == ["one", "two"] and skipping.skipped == 1
    assert skipping.notices[0].startswith(f"skipped: {tmp_path / 'a.jsonl'}:2: ")


def test_what_json_allows_is_read(tmp_path):
    lines = [
        b'\xef\xbb\xbf{"text": "one"}',
        b'{"text": "two", "n": ' + b"9" * 5000 + b"}",
        b'{"n": NaN, "text": "three"}',
        '{"text": "four\u2028still\u0085"}'.encode(),
        b'{"text": "five", "inner": {"text": "no"}}',
        rb'{"text": "\"text\" \"text\" \ud83d\ude00"}',
    ]
    wanted = ["one", "two", "three", "four\u2028still\u0085", "five", '"text" "text" 😀']
    for end in (b"\n", b"\r\n", b"\r"):
        (tmp_path / "a.jsonl").write_bytes(end.join(lines))
        assert texts(JsonlSource(tmp_path / "a.jsonl")) == wanted


@pytest.mark.parametrize(
    "text", ['[\n {"text": "a"}\n]', '{\n "text": "a"\n}', '[{"text": "a"},\n{"text": "b"}]']
)
def test_json_that_is_not_json_lines_is_told(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    assert "not JSON lines; write one object a line" in error_of(JsonlSource(tmp_path / "a.json"))


# Splits


@pytest.mark.parametrize(
    ("documents", "words"),
    [
        (
            ["one document " * 9],
            r"one document, which no share divides: name .* data\.validation, or",
        ),
        (["a", "b"], r"too few documents for the share: write another data\.validation_fraction, or name"),
        ([" ", "\n"], r"it holds no text; check data\.validation\.path"),
    ],
)
def test_a_split_that_leaves_nothing_says_what_helps(tmp_path, documents, words):
    for number, document in enumerate(documents):
        (tmp_path / f"{number}.txt").write_text(document)
    source = TextFilesSource(str(tmp_path / "*.txt"), section="data.validation")
    split = Split("validation", validation=1e-9)
    with pytest.raises(DataError, match=words):
        prepare_rows(
            source=source, tokenizer=ByteTokenizer(), seq_len=4, cache_dir=tmp_path / "c", split=split
        )
