"""What a model says of the texts of a file, by the command line."""

import csv
import gzip
import json

import pytest

import tfllm
from tests.tasks.test_classification import YAML, write_reviews
from tfllm.commands.main import main


def trained(folder, monkeypatch, **changes):
    monkeypatch.chdir(folder)
    write_reviews(folder)
    yaml = YAML.replace("steps: 80", "steps: 3").replace("evaluate_every: 40", "evaluate_every: 3")
    yaml = yaml.replace("export: {at_end: true}\n", "")
    for old, new in changes.items():
        yaml = yaml.replace(old, new)
    (folder / "reviews.yaml").write_text(yaml)
    assert main(["train", "reviews.yaml"]) == 0
    return folder / "runs/reviews"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield trained(tmp_path_factory.mktemp("reviews"), patch)


ROWS = [
    {"id": "7", "review": "bat, con fine"},
    {"id": "8", "review": ""},
    {"id": "9", "review": 'odd "hill"\nü'},
]


def test_each_record_has_its_line_with_all_that_it_says(run, tmp_path, capfd):
    with (tmp_path / "new.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "review"])
        writer.writeheader()
        writer.writerows(ROWS)
    out = tmp_path / "deep" / "said.jsonl"
    assert main(["predict", str(run), str(tmp_path / "new.csv"), "--out", str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    texts = [row["review"] for row in ROWS]
    # The column is called as in the training text; its labels are not asked for.
    assert [line.pop("record") for line in lines] == [
        {"id": row["id"], "text": row["review"]} for row in ROWS
    ]
    expected = tfllm.load(run, jit_compile=False).classify(texts)
    for line, said in zip(lines, expected, strict=True):
        assert line["label"] == said["label"] and line["scores"] == pytest.approx(said["scores"], abs=1e-5)
    assert [path.name for path in out.parent.iterdir()] == ["said.jsonl"]
    capfd.readouterr()
    with gzip.open(tmp_path / "new.jsonl.gz", "wt") as file:
        file.write("\n".join(json.dumps({"id": 7, "words": text, "odd": "\ud800"}) for text in texts))
    assert main(["predict", str(run), str(tmp_path / "new.jsonl.gz"), "--columns", "text=words"]) == 0
    again = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["label"] for line in again] == [line["label"] for line in lines]
    assert again[0]["record"] == {"id": 7, "odd": "\ud800", "text": texts[0]}


def test_numbers_of_pairs(tmp_path, monkeypatch, capfd):
    def pairs_of_texts(folder, write=write_reviews):
        write(folder)
        lines = [f"bat {'con ' * (i % 3)},fon,{i % 3}" for i in range(40)]
        (folder / "reviews.csv").write_text("\n".join(["review,reply,stars", *lines]))

    monkeypatch.setattr(f"{__name__}.write_reviews", pairs_of_texts)
    changes = {"task: classification": "task: {type: regression, pairs: true}", "accuracy": "pearson"}
    run = trained(tmp_path, monkeypatch, **changes, **{"text: review,": "text: review, text_pair: reply,"})
    (tmp_path / "new.csv").write_text("review,reply\nbat con,fon\nbat,hill\n")
    capfd.readouterr()
    assert main(["predict", str(run), "new.csv"]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    expected = tfllm.load(run, jit_compile=False).regress([("bat con", "fon"), ("bat", "hill")])
    assert [line["value"] for line in lines] == pytest.approx(expected, abs=1e-5)
    assert lines[0]["record"] == {"text": "bat con", "text_pair": "fon"}


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["new.xlsx"], 2, "FILE=new.xlsx must end in .csv, .tsv, .jsonl or .conll"),
        (["none.csv"], 1, "matches no file"),
        (
            ["new.csv", "--columns", "words=text"],
            2,
            "--columns=words=text must say which column is one of text, text_pair, head, tail, tokens, question, context",
        ),
        (["new.csv", "--columns", "text=comment"], 1, "no column 'comment'"),
        (["new.csv"], 1, "no column 'review'"),
        (["ragged.csv", "--columns", "text=text"], 1, "ragged.csv:3"),
    ],
    ids=["kind", "no file", "no such of ours", "no such of theirs", "not as trained", "ragged"],
)
def test_what_cannot_be_read_is_told_and_leaves_nothing(
    run, tmp_path, monkeypatch, capfd, words, status, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new.csv").write_text("text,id\nbat,1\n")
    (tmp_path / "ragged.csv").write_text("text,id\nbat,1\nbat\n")
    assert main(["predict", str(run), *words, "--out", "said.jsonl"]) == status
    error = capfd.readouterr().err
    assert message in error and "Traceback" not in error, error
    assert not list(tmp_path.glob("*said*"))


def test_a_model_of_no_labels_says_so(tiny_run, tmp_path, capfd):
    (tmp_path / "new.csv").write_text("text\nbat\n")
    assert main(["predict", str(tiny_run), str(tmp_path / "new.csv")]) == 1
    assert "this model tells nothing of texts; train one with" in capfd.readouterr().err
