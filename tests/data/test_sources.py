import gzip
import json
import re
import subprocess
import sys

import pytest

from tfllm.data import DataError, JsonlSource, PythonDocsSource, TextFilesSource


def texts(source):
    return list(source.documents())


def test_no_tensorflow_until_it_is_needed():
    code = "import sys, tfllm.data; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# Text files


def test_text_files_are_documents_in_order_of_their_paths(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "b.txt").write_text("bé")
    (tmp_path / "deep" / "er" / "c.txt").write_text("c")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a"))
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfz")
    source = TextFilesSource([tmp_path / "**" / "*.txt", str(tmp_path / "*.gz")])
    assert texts(source) == ["a", "bé", "z", "c"]
    assert texts(source) == texts(source)


def test_text_files_are_cut_at_split_on(tmp_path):
    (tmp_path / "a.txt").write_text("one<|end|>two<|end|>\n<|end|>three")
    assert texts(TextFilesSource(tmp_path / "a.txt", split_on="<|end|>")) == ["one", "two", "three"]
    with pytest.raises(DataError, match="split_on"):
        TextFilesSource(tmp_path / "a.txt", split_on="")


def test_no_matching_file_names_the_glob_and_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"'none/\*\.txt' matches no file.*{re.escape(str(tmp_path))}"):
        TextFilesSource("none/*.txt")
    with pytest.raises(DataError, match="is a folder"):
        TextFilesSource(str(tmp_path))
    with pytest.raises(DataError, match="names no file"):
        TextFilesSource([])


def test_bad_bytes_are_named_skipped_or_replaced(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good")
    (tmp_path / "b.txt").write_bytes(b"bad \xff end")
    with pytest.raises(DataError, match=r"b\.txt: byte 4 is not valid utf-8.*on_error"):
        texts(TextFilesSource(tmp_path / "*.txt"))
    skipping = TextFilesSource(tmp_path / "*.txt", on_error="skip")
    assert texts(skipping) == ["good"] and skipping.skipped == 1
    assert texts(TextFilesSource(tmp_path / "*.txt", on_error="replace")) == ["good", "bad \ufffd end"]
    assert texts(TextFilesSource(tmp_path / "b.txt", encoding="latin-1")) == ["bad ÿ end"]


def test_bad_settings_are_named(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(DataError, match=r"on_error='ignore'.*'skip'"):
        TextFilesSource(tmp_path / "a.txt", on_error="ignore")
    with pytest.raises(DataError, match="encoding='utf-99'"):
        TextFilesSource(tmp_path / "a.txt", encoding="utf-99")


@pytest.mark.parametrize("make", [TextFilesSource, JsonlSource])
def test_a_broken_gzip_file_is_named(tmp_path, make):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-12])
    with pytest.raises(DataError, match=r"a\.gz: cannot be read"):
        texts(make(tmp_path / "a.gz"))


def test_fingerprints_follow_content_and_settings(tmp_path):
    import os

    file = tmp_path / "a.txt"
    file.write_text("aaaa")
    times = file.stat()
    first = TextFilesSource(file).fingerprint()
    assert first == TextFilesSource(str(file)).fingerprint()
    assert first != TextFilesSource(file, split_on="x").fingerprint()
    assert first != TextFilesSource(file, on_error="skip").fingerprint()
    file.write_text("aaab")  # the same size at the same time
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert first != TextFilesSource(file).fingerprint()
    assert JsonlSource(file).fingerprint() != JsonlSource(file, text_key="body").fingerprint()


# JSON lines


def test_jsonl_yields_the_key_of_each_line(tmp_path):
    lines = [{"body": "one", "n": 1}, {"body": "zwei ü"}, {"body": ""}]
    text = "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    assert texts(JsonlSource(tmp_path / "*.jsonl*", "body")) == ["one", "zwei ü", ""] * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "open', r"not valid JSON \(Unterminated string.*column 10"),
        (b'{"body": "b", "n": 1}', r"no key 'text'; the keys are 'body', 'n'; set data\.train\.text_key"),
        (b'{"text": 3}', r"'text' must be a string, not a number"),
        (rb'{"text": "\ud800"}', r"'text' holds half of a surrogate pair"),
        (b'["text"]', r"a line must hold a JSON object, not a list"),
        (b'{"text": "\xff"}', r"byte 10 of the line is not UTF-8"),
    ],
)
def test_a_bad_line_is_named_or_skipped(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\n\n' + line + b'\n{"text": "two"}\n')
    with pytest.raises(DataError, match=rf"a\.jsonl:3: {message}.*data\.train\.on_error: skip"):
        texts(JsonlSource(tmp_path / "a.jsonl"))
    skipping = JsonlSource(tmp_path / "a.jsonl", on_error="skip")
    assert texts(skipping) == ["one", "two"] and skipping.skipped == 1
    assert texts(skipping) == ["one", "two"] and skipping.skipped == 1


def test_objects_without_a_text_are_records_of_what_they_hold(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"source": "one", "target": ["un"]}\n{"tokens": ["a", "b"], "n": 1}\n')
    first, second = JsonlSource(tmp_path / "a.jsonl").records()
    assert dict(first.fields) == {"source": "one", "target": ["un"]} and second.text("text") == "a b"
    with pytest.raises(
        DataError, match=r"a\.jsonl:1: no column 'text'; the columns are 'source', 'target'; say which"
    ):
        first.text("text")


# The documentation of Python


@pytest.mark.slow
def test_python_docs_are_plenty_ordered_and_without_tests():
    source = PythonDocsSource()
    documents = texts(source)
    assert len(documents) > 350 and sum(map(len, documents)) > 1_500_000
    topics = texts(PythonDocsSource(["topics"]))
    assert documents[: len(topics)] == topics
    modules = [document.split("\n", 1)[0] for document in documents[len(topics) :]]
    assert {"json", "json.decoder", "collections", "argparse"} <= {name.split(".__")[0] for name in modules}
    assert not any(name.startswith(("test.", "idlelib", "lib2to3")) or ".test" in name for name in modules)
    assert len(set(modules)) == len(modules)
    decoder = next(document for document in documents if document.startswith("json.decoder\n"))
    assert "json.decoder.JSONDecoder.raw_decode\n\nDecode a JSON document from ``s``" in decoder


def test_python_docs_fingerprint_and_settings():
    assert PythonDocsSource(["topics"]).fingerprint() == PythonDocsSource(("topics",)).fingerprint()
    assert PythonDocsSource(["topics"]).fingerprint() != PythonDocsSource(["docstrings"]).fingerprint()
    assert "topics" in PythonDocsSource(["topics"]).describe()
    with pytest.raises(DataError, match="parts='topix' must be one of 'topics', 'docstrings'"):
        PythonDocsSource(["topix"])
    with pytest.raises(DataError, match="must be a list"):
        PythonDocsSource("topics")


def test_objects_have_the_columns_that_are_named(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"q": "one", "a": ["two", 3], "more": 1}\n\n{"q": "four", "a": null}\n')
    source = JsonlSource(path, columns={"anchor": "q", "positive": "a"})
    assert [record.fields for record in source.records()] == [
        {"more": 1, "anchor": "one", "positive": ["two", 3]},
        {"anchor": "four", "positive": None},
    ]
    plain = JsonlSource(path, text_key="q")  # whose other keys are columns too
    assert [record.fields["more"] for record in plain.records() if "more" in record.fields] == [1]
    assert [record.text("text") for record in plain.records()] == ["one", "four"]
    hidden = JsonlSource(path, columns={"more": "q"})  # another is called so here
    assert next(iter(hidden.records())).fields == {"a": ["two", 3], "more": "one"}
    assert source.fingerprint() != JsonlSource(path, columns={"anchor": "a", "positive": "q"}).fingerprint()
    assert "keys ['q', 'a']" in source.describe()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            '{"q": "x"}',
            r"pairs.jsonl:2: no key 'a', which data.train.columns.positive names; the keys are 'q'",
        ),
        ('["x"]', "a line must hold a JSON object, not a list; write each of its items on a line of its own"),
        ('{"q": "x", "a": "\\ud800"}', "'a' holds half of a surrogate pair"),
        ('{"q": "x", "a": "y", "a": "z"}', "has the key 'a' twice"),
        ('{"q": "x", ', "not valid JSON"),
    ],
)
def test_objects_without_a_column_are_told_or_skipped(tmp_path, line, words):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"q": "one", "a": "two"}\n' + line + "\n")
    columns = {"anchor": "q", "positive": "a"}
    with pytest.raises(DataError, match=words):
        list(JsonlSource(path, columns=columns).records())
    skipping = JsonlSource(path, columns=columns, on_error="skip")
    assert [record.text("anchor") for record in skipping.records()] == ["one"] and skipping.skipped == 1
