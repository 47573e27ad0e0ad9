"""`tfllm inspect --rows`: rows as a model sees them."""

import json
import re

import pytest

from tests.tasks.test_seq2seq import Pairs
from tfllm.commands.main import main

SMALL = {"num_layers": 1, "hidden_dim": 8, "num_heads": 2}
ENCODER = {"type": "encoder", **SMALL}


@pytest.fixture
def lines(tmp_path, monkeypatch, capfd):
    """Prints the rows of a config -> their lines."""
    monkeypatch.chdir(tmp_path)
    rows = [{**row, "text": row["source"], "label": "ab"[i % 2]} for i, row in enumerate(Pairs(30).rows)]
    tagged = [
        {**row, "tokens": row["text"].split(), "tags": ["B-X"] + ["O"] * row["text"].count(" ")}
        for row in rows
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, tagged)))

    def printed(*options, **sections):
        data = {
            "train": {"type": "jsonl", "path": "rows.jsonl"},
            "seq_len": 96,
            "num_workers": 1,
            "packing": False,
        }
        mapping = {"name": "rows", "tokenizer": "byte", "model": SMALL, **sections}
        (tmp_path / "config.yaml").write_text(
            json.dumps({**mapping, "data": {**data, **sections.get("data", {})}})
        )
        status = main(["inspect", "config.yaml", *options])
        out, err = capfd.readouterr()
        return (out.splitlines(), status) if status == 0 else (err, status)

    return printed


def only(lines, name):
    return [line.split(":", 1)[1].split() for line in lines if line.strip().startswith(f"{name}:")]


def test_what_a_decoder_learns_of_text_and_of_targets(lines):
    found, _ = lines("--rows", "2")
    assert len([line for line in found if re.fullmatch(r"row \d+", line)]) == 2
    tokens, learned = only(found, "tokens"), only(found, "learns")
    assert len(tokens) == 2 and tokens[0][1:] == learned[0][:-1]
    found, _ = lines("--rows", "1", task={"type": "seq2seq", "template": "{source}>"})
    [tokens], [learned] = only(found, "tokens"), only(found, "learns")
    begin = tokens.index(">") + 1
    assert learned[:-1] == tokens[begin:], "of the source nothing is learned"


def test_both_sides_of_an_encoder_decoder(lines):
    model = {
        "type": "encoder_decoder",
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "hidden_dim": 8,
        "num_heads": 2,
    }
    found, _ = lines("--rows", "1", task="seq2seq", model=model, data={"packing": True})
    encoder, decoder, learned = (only(found, name) for name in ("encoder", "decoder", "learns"))
    assert len(encoder) == len(decoder) == len(learned) >= 1
    assert all(read[1:] == written[:-1] for read, written in zip(decoder, learned, strict=True))
    assert len(only(found, "weights")) == len(encoder)


def test_classes_and_tags_are_named(lines):
    bpe = {"type": "byte_bpe", "vocab_size": 300}
    found, _ = lines("--rows", "3", task="classification", model=ENCODER, tokenizer=bpe)
    assert {tuple(each) for each in only(found, "labels")} <= {("a",), ("b",)} and len(
        only(found, "labels")
    ) == 3
    found, _ = lines("--rows", "1", task="token_classification", model=ENCODER, tokenizer=bpe)
    [tags], [words] = only(found, "tags"), only(found, "words")
    assert tags.count("B-X") == 1 and [tag == "·" for tag in tags] == [word == "0" for word in words]


def test_what_is_hidden_is_told_with_its_place(lines):
    found, _ = lines(
        "--rows", "4", task="masked_lm", model=ENCODER, tokenizer={"type": "byte_bpe", "vocab_size": 300}
    )
    hidden = [pair for line in only(found, "learns") for pair in line]
    assert hidden and all(re.match(r"\d+:.", pair) for pair in hidden)


def test_rows_that_cannot_be_shown(lines):
    message, status = lines("--rows", "0")
    assert status == 2 and "--rows=0 must be at least 1" in message
