"""Files of SQuAD, and what is said of those that are none."""

import gzip
import json

import pytest

from tfllm.data import DataError, SquadSource

ASKED = {"id": "q1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}]}
NEVER = {
    "id": "q2",
    "question": "Why?",
    "is_impossible": True,
    "answers": [],
    "plausible_answers": [{"text": "it", "answer_start": 10}],
}


def squad(*qas, context="Ada wrote it."):
    return {
        "version": "v2.0",
        "data": [{"title": "T", "paragraphs": [{"context": context, "qas": list(qas)}]}],
    }


def test_a_record_is_a_question_with_its_context(tmp_path):
    text = json.dumps(squad(ASKED, NEVER))
    for name, content in (("a.json", text.encode()), ("b.json", b"\xef\xbb\xbf" + text.encode())):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "c.json.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("a.json", "b.json", "c.json.gz"):
        source = SquadSource(tmp_path / name)
        first, second = source.records()
        assert first.fields == {
            **{"question": "Who?", "context": "Ada wrote it.", "title": "T", "id": "q1"},
            "answers": [{"text": "Ada", "answer_start": 0}],
        }
        assert second.fields["answers"] == [] and second.fields["id"] == "q2"
        assert first.place == f"{tmp_path / name}: data[0].paragraphs[0].qas[0]"
    assert "SQuAD" in source.describe()
    fingerprint = SquadSource(tmp_path / "a.json").fingerprint()
    (tmp_path / "a.json").write_text(json.dumps(squad(ASKED)))
    assert SquadSource(tmp_path / "a.json").fingerprint() != fingerprint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            '{"question": "Who?"}\n{"question": "Why?"}',
            "a.json:2: not valid JSON (Extra data); JSON lines are read by",
        ),
        ("[1]", "the file has no list 'data'; write it as SQuAD has it, or as JSON lines"),
        (json.dumps({"data": [{"title": "T"}]}), "data[0] has no list 'paragraphs'"),
        (json.dumps(squad({"question": "Who?"})), "data[0].paragraphs[0].qas[0] has no list 'answers'"),
        (json.dumps(squad({"answers": []})), "data[0].paragraphs[0].qas[0] has no text 'question'"),
        (json.dumps(squad(ASKED, context=None)), "data[0].paragraphs[0] has no text 'context'"),
        ("[" * 100_000, "a.json"),
    ],
    ids=["lines", "a list", "no paragraphs", "no answers", "no question", "no context", "deep"],
)
def test_what_is_no_such_file_is_told(tmp_path, content, words):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError) as error:
        list(SquadSource(tmp_path / "a.json").records())
    assert words in str(error.value)
