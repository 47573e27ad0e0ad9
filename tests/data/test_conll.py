"""Files of CoNLL as corpora have them, and what is said of those that are none."""

import gzip

import pytest

from tfllm.data import ConllSource, DataError

NER = {"tokens": 0, "tags": -1}
CONLL_2003 = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
# NN B-NP O

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER
"""
WNUT = "#tag\tO\n@user\tO\nEmpire\tB-location\n\n\n \n:)\tO\n"
CONLL_U = """# sent_id = 1
# text = Vámonos al mar
1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\t_\t_\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\t_
3-4\tal\t_\t_\t_\t_\t_\t_\t_\t_
3\ta\ta\tADP\t_\t_\t5\tcase\t_\t_
4\tel\tel\tDET\t_\t_\t5\tdet\t_\t_
5\tmar\tmar\tNOUN\t_\t_\t1\tobl\t_\t_
5.1\t_\t_\t_\t_\t_\t_\t_\t_\t_

# sent_id = 2
1\tSí\tsí\tINTJ\t_\t_\t0\troot\t_\t_
"""


def read(folder, text, columns=NER, **settings):
    path = folder / "a.conll"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    source = ConllSource(path, columns=columns, **settings)
    return [(record.fields["tokens"], record.fields.get("tags")) for record in source.records()]


def test_corpora_are_read_as_they_are_written(tmp_path):
    expected = [
        (["EU", "rejects", "#"], ["B-ORG", "O", "O"]),
        (["Peter", "Blackburn"], ["B-PER", "I-PER"]),
    ]
    assert read(tmp_path, CONLL_2003) == expected
    assert read(tmp_path, CONLL_2003.replace("\n", "\r\n")) == expected
    assert read(tmp_path, "\ufeff" + CONLL_2003.rstrip()) == expected
    assert read(tmp_path, gzip.compress(CONLL_2003.encode())) == expected
    assert read(tmp_path, WNUT) == [(["#tag", "@user", "Empire"], ["O", "O", "B-location"]), ([":)"], ["O"])]
    words = {"tokens": 1, "tags": 3}
    assert read(tmp_path, CONLL_U, words) == [
        (["Vamos", "nos", "a", "el", "mar"], ["VERB", "PRON", "ADP", "DET", "NOUN"]),
        (["Sí"], ["INTJ"]),
    ]
    assert read(tmp_path, "O one\nB-X 1\u00a02\n", {"tokens": 1, "tags": 0}) == [
        (["one", "1\u00a02"], ["O", "B-X"])
    ]
    attached = (
        "-DOCSTART- -DOCSTART- O\nDe Art O\ntekst N B-X\n"  # as the Dutch part of CoNLL 2002 and 2003 has it
    )
    assert read(tmp_path, attached) == [(["De", "tekst"], ["O", "B-X"])]
    assert read(tmp_path, "") == [] and read(tmp_path, "\n\n# only = this\n") == []


def test_a_record_has_its_text_and_its_place(tmp_path):
    (tmp_path / "a.conll").write_text(WNUT)
    source = ConllSource(tmp_path / "a.conll", columns=NER)
    first, last = source.records()
    assert first.text("text") == "#tag @user Empire"
    assert (first.place, last.place) == (f"{tmp_path}/a.conll:1", f"{tmp_path}/a.conll:7")
    assert source.fingerprint() != ConllSource(tmp_path / "a.conll", columns={"tokens": 0}).fingerprint()


@pytest.mark.parametrize(
    ("text", "columns", "words"),
    [
        ("a O\nb\n\nc O\n", NER, "a.conll:2: 'b' has 1 fields, and the first word of the file has 2; mend"),
        ("a\tO\nb O\n", NER, "a.conll:2: 'b O' has 1 fields"),
        (
            "a O\n",
            {"tokens": 0, "tags": 3},
            "a.conll:1: data.train.columns.tags=3, and a line has 2 fields; write -2 to 1",
        ),
        (b"a O\n\xff O\n", NER, "holds the byte 0xff, which is not UTF-8"),
    ],
    ids=["too few", "no tab", "no such place", "not UTF-8"],
)
def test_what_is_no_such_file_is_told(tmp_path, text, columns, words):
    with pytest.raises(DataError) as error:
        read(tmp_path, text, columns)
    assert words in str(error.value)


def test_a_broken_sentence_is_skipped_whole(tmp_path):
    text = "a O\nb\n\nc O\n\nd O O\n"
    assert read(tmp_path, text, on_error="skip") == [(["c"], ["O"])]
