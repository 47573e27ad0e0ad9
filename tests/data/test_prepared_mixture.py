"""From the config of a mixture to batches, and `tfllm prepare`."""

import io
import json

import pytest

from tfllm import experiment
from tfllm.commands import main
from tfllm.commands.prepare import Bars
from tfllm.config import ConfigError, config_from_mapping
from tfllm.data import DataError, MixtureSource, RowMixture
from tfllm.data.pipeline import training_batches
from tfllm.data.sources import file_source
from tfllm.experiment import tokenizer
from tfllm.experiment.setup import set_up
from tfllm.training.display import Display


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for name, lines in (("a", 300), ("b", 80), ("c", 1)):
        texts = [f"{name} is the letter of line {i} in its file." for i in range(lines)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def mapping(files, weights, **data):
    sources = [
        {"weight": weight, "source": {"type": "jsonl", "path": str(files / f"{name}.jsonl")}}
        for name, weight in weights.items()
    ]
    return {
        "name": "mixed",
        "tokenizer": {"type": "byte"},
        "generation": {"max_new_tokens": 8},
        "data": {
            "train": {"type": "mixture", "sources": sources},
            "seq_len": 32,
            "cache_dir": str(files / "cache"),
            **data,
        },
    }


def test_rows_of_all_sources_are_prepared_and_held_out(files):
    prepared = experiment.prepare(config_from_mapping(mapping(files, {"a": 0.25, "b": 0.75})))
    train, validation = prepared.train, prepared.validation
    assert isinstance(train, RowMixture) and isinstance(validation, RowMixture)
    assert [store.num_documents for store in train.stores] == [
        total - store.num_documents for total, store in zip((300, 80), validation.stores, strict=True)
    ]
    assert "25.0% from" in train.summary and "75.0% from" in train.summary
    batch = next(iter(training_batches(train, global_batch_size=16, seed=0)))
    assert list(batch["source_ids"].numpy()).count(1) == 12
    texts = [prepared.tokenizer.decode(row) for row in batch["token_ids"].numpy()]
    assert any("b is" in text for text in texts) and any("a is" in text for text in texts)


def test_a_source_too_small_to_hold_any_document_out_is_left_out_of_validation(files):
    prepared = experiment.prepare(config_from_mapping(mapping(files, {"a": 1, "c": 1})))
    assert len(prepared.train.stores) == 2 and len(prepared.validation.stores) == 1
    with pytest.raises(DataError, match=r"mixture of 1 JSON lines.*no document is held out"):
        experiment.prepare(config_from_mapping(mapping(files, {"c": 1})))


def test_an_empty_source_is_named(files):
    (files / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match=r"empty\.jsonl.*0 documents.*at least one document"):
        experiment.prepare(config_from_mapping(mapping(files, {"a": 1, "empty": 1})))


def test_given_validation_text_is_taken(files):
    validation = {"type": "jsonl", "path": str(files / "b.jsonl")}
    prepared = experiment.prepare(config_from_mapping(mapping(files, {"a": 1}, validation=validation)))
    assert prepared.validation.num_documents == 80 and prepared.train.num_documents == 300


def test_a_start_reads_each_file_once_for_its_digest(files, tmp_path, monkeypatch):
    hashed, digest = [], file_source.content_digest
    monkeypatch.setattr(file_source, "content_digest", lambda paths: hashed.extend(paths) or digest(paths))
    sections = mapping(files, {"a": 1, "b": 1}, cache_dir=str(tmp_path / "cache"))
    sections |= {
        "tokenizer": {"type": "byte_bpe", "vocab_size": 300},
        "model": {"type": "decoder", "num_layers": 1, "hidden_dim": 8, "num_heads": 1},
        "training": {"steps": 1, "global_batch_size": 1},
    }
    with set_up(
        config_from_mapping(sections), tmp_path / "run", Display(total_steps=1, silent=True)
    ) as setup:
        assert setup.prepared.train.num_rows and setup.prepared.validation.num_rows
    assert sorted(path.name for path in hashed) == ["a.jsonl", "b.jsonl"]


def test_a_tokenizer_learns_from_every_source_by_its_weight(files, monkeypatch):
    seen = []
    monkeypatch.setattr(tokenizer, "sampled_texts", lambda texts, max_bytes: seen.append(max_bytes) or [])
    source = experiment.make_source(config_from_mapping(mapping(files, {"a": 0.25, "b": 0.75})).data.train)
    assert isinstance(source, MixtureSource) and len(list(source.records())) == 380
    assert list(tokenizer._sample(source, None, 1000, ["text"])) == [] and seen == [250, 750]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": []}, r"data\.train\.sources=\[\] names no source"),
        ({"sources": [{"weight": 0, "source": "python_docs"}]}, r"sources\[0\]\.weight=0.* greater than 0"),
        ({"sources": [{"source": "python_docs"}]}, r"data\.train\.sources\[0\]\.weight is required|weight"),
        ({"sources": [{"weight": 1, "source": {"type": "json"}}]}, r"sources\[0\]\.source\.type='?json"),
        (
            {"sources": [{"weight": 1, "source": {"type": "mixture", "sources": []}}]},
            "a mixture inside a mixture",
        ),
    ],
)
def test_mistakes_in_the_config_are_named(files, change, message):
    given = mapping(files, {"a": 1})
    given["data"]["train"].update(change)
    with pytest.raises(ConfigError, match=message):
        config_from_mapping(given)


def test_held_out_text_is_neither_a_mixture_nor_in_it(files):
    given = mapping(files, {"a": 1, "b": 1})
    given["data"]["validation"] = given["data"]["train"]["sources"][1]["source"]
    with pytest.raises(ConfigError, match=r"data\.validation.*is the text of data\.train"):
        config_from_mapping(given)
    given["data"]["validation"] = mapping(files, {"c": 1})["data"]["train"]
    with pytest.raises(ConfigError, match=r"data\.validation\.type.*is for training"):
        config_from_mapping(given)


def test_prepare_shows_each_source_and_verifies(files, tmp_path, capsys):
    config = tmp_path / "mixed.yaml"
    config.write_text(json.dumps(mapping(files, {"a": 3, "b": 1})))
    assert main.main(["prepare", str(config), "--verify"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("train  ") == 2 and shown.count("all rows are as they were written") == 4
    assert "bytes a token" in shown


def test_bars_count_bytes_and_documents():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    bars = Bars(stream)
    report = bars.progress("train")
    report(10, 1_000_000)
    report(30, 3_000_000)
    bars._bar.refresh()
    assert bars._bar.n == 3_000_000 and bars._bar.initial == 1_000_000
    bars.progress("validation")(1, 5)
    assert bars._bar.n == 5
    bars.amount("verifying", 100)(40)
    assert bars._bar.n == 40 and bars._bar.total == 100
    bars.close()
    assert "30 documents" in stream.getvalue() and "train: 3.00MB" in stream.getvalue()


def test_bars_say_nothing_to_a_file_in_the_first_minute():
    stream = io.StringIO()
    bars = Bars(stream)
    bars.progress("train")(10, 1_000_000)
    bars.close()
    assert stream.getvalue() == ""
