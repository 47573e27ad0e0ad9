"""The keys of data, its sources, and tokenizers: which documents become rows, how, and where they lie."""

import functools
import gzip
import json
import zlib

import pyarrow
import pytest
from pyarrow import parquet

from tests.data.test_tensorflow_sources import write_records
from tests.promises.case import Case, hold
from tests.promises.runs import documents, mapping
from tfllm import experiment
from tfllm.config import config_from_mapping
from tfllm.data import piece, processes
from tfllm.data.errors import DataError
from tfllm.data.mixture import stores_of
from tfllm.tokenizers import (
    ByteBPETokenizer,
    SentencePieceTokenizer,
    TokenizerError,
    WordPieceTokenizer,
)


class Prepared:
    """Rows and tokenizer of a config, as `tfllm prepare` makes them; or the message why not."""

    def __init__(self, config):
        self.config, self.error = config, ""
        try:
            prepared = experiment.prepare(config)
            self.tokenizer, self.train = prepared.tokenizer, prepared.train
            self.validation, self.test = prepared.validation, prepared.test
        except (DataError, TokenizerError) as error:
            self.error, self.train, self.validation, self.test = str(error), None, None, None

    def texts(self, rows):
        """The documents that the rows hold, put together again."""
        if rows is None:
            return set()
        texts = []
        for store in stores_of(rows):
            read = store.read(range(store.num_rows))
            for ids, segments in zip(read["token_ids"], read["segment_ids"], strict=True):
                for segment in sorted(set(segments) - {0}):
                    texts.append(self.tokenizer.decode(ids[segments == segment].tolist()))
        return set(texts)


@pytest.fixture(scope="module")
def made(tmp_path_factory, data_dir):
    """Prepares a `data` and a `tokenizer` section; `{folder}` stands for a folder with texts of every kind."""
    folder = tmp_path_factory.mktemp("texts")
    _write_texts(folder)

    @functools.cache
    def prepare(text):
        sections = json.loads(text.replace("{folder}", str(folder)).replace("{tfds}", data_dir))
        started = []
        with pytest.MonkeyPatch.context() as monkeypatch:
            start = processes._start
            monkeypatch.setattr(processes, "_start", lambda: started.append(1) or start())
            monkeypatch.setattr(piece, "PIECE_CHARACTERS", 100_000)  # so that a small text has several
            prepared = Prepared(config_from_mapping(mapping("unused", **sections)))
        prepared.processes = len(started)
        prepared.folder = folder
        return prepared

    return lambda sections: prepare(json.dumps(sections))


def _write_texts(folder):
    (folder / "plain.txt").write_text("one two\n\nthree four\n\nfive")
    (folder / "other.txt").write_text("six seven")
    (folder / "line.txt").write_text('{"text": "plain"}')
    (folder / "held.txt").write_text("held out")
    (folder / "many.txt").write_text("\n\n".join(documents(60)))
    (folder / "large.txt").write_text("\n\n".join([" ".join(documents(60))] * 60))  # of several pieces
    syllables = [f"{a}{b}{c}" for a in "bdfghjklmnptvw" for b in "aeiou" for c in "rstx"]
    (folder / "rich.txt").write_text("\n\n".join(" ".join(syllables[i::2]) for i in range(40)))
    (folder / "capitals.txt").write_text("\n\n".join(f"A B a b {i}" for i in range(20)))
    (folder / "latin.txt").write_bytes("größer".encode("latin-1"))
    (folder / "broken.txt").write_bytes(b"good \xff bad")
    lines = [json.dumps({"text": "plain", "body": "the body"}), "{broken", json.dumps({"text": "last"})]
    (folder / "lines.jsonl").write_text("\n".join(lines))
    (folder / "good.jsonl").write_text("\n".join([lines[0], lines[2].replace("}", ', "body": "end"}')]))
    grouped = [{"text": f"p{i % 12} {i}", "page": i % 12} for i in range(60)]
    (folder / "grouped.jsonl").write_text("\n".join(map(json.dumps, grouped)))
    (folder / "a.en").write_text("one\ntwo\n")
    (folder / "a.fr").write_text("un\ndeux\n")
    (folder / "b.fr").write_text("uno\ndos\n")
    for name, texts in (("table", ["plain", "last"]), ("other", ["third", "fourth"])):
        rows = pyarrow.table({"text": texts, "body": [f"body of {text}" for text in texts]})
        parquet.write_table(rows, folder / f"{name}.parquet")
    (folder / "table.csv").write_text('text,body\n"one, two",the body\nthree,its end\n')
    (folder / "semicolons.csv").write_text("text;body\nfour;x\nfive;y\n")
    (folder / "ragged.csv").write_text("text,body\nsix,x\nseven\n")
    (folder / "words.conll").write_text("eight A x\nnine A y\n\nten A z\n")
    (folder / "ragged.conll").write_text("eight O\nnine\n\nten O\n")
    asked = [{"question": "eleven", "answers": []}, {"question": "twelve", "answers": []}]
    squad = {"data": [{"title": "t", "paragraphs": [{"context": "ten", "qas": asked}]}]}
    (folder / "squad.json").write_text(json.dumps(squad))
    (folder / "held.json").write_text(json.dumps(squad).replace("ten", "held"))
    records = [{"text": [b"a record"], "body": [b"its body"]}]
    for name, compression in (("plain", ""), ("packed", "GZIP")):
        write_records(folder / f"{name}.tfrecord", records, compression)
    # A window of 4 KB: the first byte is not the one by which such streams are known.
    packed = zlib.compressobj(wbits=12)
    data = packed.compress((folder / "plain.tfrecord").read_bytes()) + packed.flush()
    (folder / "small_window.tfrecord").write_bytes(data)
    with gzip.open(folder / "zipped.txt.gz", "wt") as file:
        file.write("zipped")


def source(**keys):
    """A config that trains on a source and holds another file out, a document a row."""
    held = {"type": "text_files", "path": "{folder}/held.txt"}
    return {"data": {"train": keys, "validation": held, "seq_len": 32, "num_workers": 1, "packing": False}}


def trains_on(*texts):
    def shows(prepared):
        assert prepared.texts(prepared.train) == set(texts), prepared.error

    return shows


def of_source(kind, key, value, texts, **beside):
    return Case(trains_on(*texts), source(type=kind, **beside, **{key: value}), source(type=kind, **beside))


def questions(**keys):
    """A config that trains on questions."""
    model = {"type": "encoder", "num_layers": 1, "hidden_dim": 8, "num_heads": 2}
    held = {"type": "squad", "path": "{folder}/held.json"}
    return {"task": "span_qa", "model": model, "data": {**source(**keys)["data"], "validation": held}}


def _asks(*texts):
    def shows(prepared):
        assert prepared.train is not None, prepared.error
        found = {text for row in prepared.texts(prepared.train) for text in texts if text in row}
        assert found == set(texts)

    return shows


def translated(**keys):
    """A config that trains a decoder on sources and targets."""
    task = {"type": "seq2seq", "template": "{source}>"}
    held = {"type": "parallel_text", "source": "{folder}/held.txt", "target": "{folder}/held.txt"}
    return {"task": task, "data": {**source(type="parallel_text", **keys)["data"], "validation": held}}


BOTH = {"source": "{folder}/a.en", "target": "{folder}/a.fr"}


def _hundreds(prepared):
    """Chapters of the language reference, and docstrings."""
    assert prepared.train.num_documents > 300


PLAIN = {"path": "{folder}/plain.txt"}
SOURCES = {
    "data source:text_files": Case(
        trains_on('{"text": "plain"}'),
        source(type="text_files", path="{folder}/line.txt"),
        source(type="jsonl", path="{folder}/line.txt"),
    ),
    "data source:text_files.path": Case(
        trains_on("one two\n\nthree four\n\nfive", "six seven"),
        source(type="text_files", path=["{folder}/plain.txt", "{folder}/oth*.txt"]),
        source(type="text_files", path="{folder}/plain.txt"),
    ),
    "data source:parallel_text": Case(
        _asks("one> un", "two> deux"), translated(**BOTH), source(type="text_files", **PLAIN)
    ),
    "data source:parallel_text.source": Case(
        _asks("uno> un", "dos> deux"), translated(**{**BOTH, "source": "{folder}/b.fr"}), translated(**BOTH)
    ),
    "data source:parallel_text.target": Case(
        _asks("one> uno", "two> dos"), translated(**{**BOTH, "target": "{folder}/b.fr"}), translated(**BOTH)
    ),
    "data source:parquet": Case(
        trains_on("plain", "last"),
        source(type="parquet", path="{folder}/table.parquet"),
        source(type="jsonl", path="{folder}/lines.jsonl"),
    ),
    "data source:parquet.path": Case(
        trains_on("plain", "last", "third", "fourth"),
        source(type="parquet", path=["{folder}/table.parquet", "{folder}/oth*.parquet"]),
        source(type="parquet", path="{folder}/table.parquet"),
    ),
    "data source:parquet.columns": of_source(
        "parquet",
        "columns",
        {"text": "body"},
        ["body of plain", "body of last"],
        path="{folder}/table.parquet",
    ),
    "data source:text_files.split_on": of_source(
        "text_files", "split_on", "\n\n", ["one two", "three four", "five"], **PLAIN
    ),
    "data source:text_files.encoding": of_source(
        "text_files", "encoding", "latin-1", ["größer"], path="{folder}/latin.txt"
    ),
    "data source:text_files.on_error": of_source(
        "text_files", "on_error", "replace", ["good \ufffd bad"], path="{folder}/broken.txt"
    ),
    "data source:jsonl": Case(
        trains_on("plain", "last"),
        source(type="jsonl", path="{folder}/good.jsonl"),
        source(type="text_files", path="{folder}/good.jsonl"),
    ),
    "data source:jsonl.path": Case(
        trains_on("plain", "last"),
        source(type="jsonl", path="{folder}/good.jsonl"),
        source(type="jsonl", path="{folder}/none.jsonl"),
    ),
    "data source:jsonl.text_key": of_source(
        "jsonl", "text_key", "body", ["the body", "end"], path="{folder}/good.jsonl"
    ),
    "data source:jsonl.columns": of_source(
        "jsonl", "columns", {"text": "body"}, ["the body", "end"], path="{folder}/good.jsonl"
    ),
    "data source:jsonl.on_error": of_source(
        "jsonl", "on_error", "skip", ["plain", "last"], path="{folder}/lines.jsonl"
    ),
    "data source:csv": Case(
        trains_on("one, two", "three"),
        source(type="csv", path="{folder}/table.csv"),
        source(type="text_files", path="{folder}/table.csv"),
    ),
    "data source:csv.path": Case(
        trains_on("one, two", "three"),
        source(type="csv", path="{folder}/table.csv"),
        source(type="csv", path="{folder}/none.csv"),
    ),
    "data source:csv.columns": of_source(
        "csv", "columns", {"text": "body"}, ["the body", "its end"], path="{folder}/table.csv"
    ),
    "data source:csv.delimiter": of_source(
        "csv", "delimiter", ";", ["four", "five"], path="{folder}/semicolons.csv"
    ),
    "data source:csv.on_error": of_source("csv", "on_error", "skip", ["six"], path="{folder}/ragged.csv"),
    "data source:conll": Case(
        trains_on("eight nine", "ten"),
        source(type="conll", path="{folder}/words.conll"),
        source(type="text_files", path="{folder}/words.conll"),
    ),
    "data source:conll.path": Case(
        trains_on("eight nine", "ten"),
        source(type="conll", path="{folder}/words.conll"),
        source(type="conll", path="{folder}/none.conll"),
    ),
    "data source:conll.columns": of_source(
        "conll", "columns", {"tokens": 2}, ["x y", "z"], path="{folder}/words.conll"
    ),
    "data source:conll.on_error": of_source(
        "conll", "on_error", "skip", ["ten"], path="{folder}/ragged.conll"
    ),
    "data source:squad": Case(
        _asks("eleven", "twelve"),
        questions(type="squad", path="{folder}/squad.json"),
        questions(type="jsonl", path="{folder}/squad.json"),
    ),
    "data source:squad.path": Case(
        _asks("eleven", "twelve"),
        questions(type="squad", path="{folder}/squad.json"),
        questions(type="squad", path="{folder}/none.json"),
    ),
    "data source:tfrecord": Case(
        trains_on("a record"),
        source(type="tfrecord", path="{folder}/plain.tfrecord"),
        source(type="text_files", path="{folder}/plain.tfrecord", on_error="replace"),
    ),
    "data source:tfrecord.path": Case(
        trains_on("a record"),
        source(type="tfrecord", path="{folder}/plain.tfrecord"),
        source(type="tfrecord", path="{folder}/none.tfrecord"),
    ),
    "data source:tfrecord.text_key": of_source(
        "tfrecord", "text_key", "body", ["its body"], path="{folder}/plain.tfrecord"
    ),
    "data source:tfrecord.compression": of_source(
        "tfrecord", "compression", "ZLIB", ["a record"], path="{folder}/small_window.tfrecord"
    ),
    "data source:tfds": Case(
        trains_on(*(f"text {i}" for i in range(5))),
        source(type="tfds", name="tiny_texts", data_dir="{tfds}"),
        source(type="text_files", **PLAIN),
    ),
    "data source:tfds.name": Case(
        trains_on(*(f"text {i}" for i in range(5))),
        source(type="tfds", name="tiny_texts", data_dir="{tfds}"),
        source(type="tfds", name="other_texts", data_dir="{tfds}"),
    ),
    "data source:tfds.split": of_source(
        "tfds", "split", "test", ["text 0", "text 1"], name="tiny_texts", data_dir="{tfds}"
    ),
    "data source:tfds.text_key": of_source(
        "tfds",
        "text_key",
        "translation.en",
        [f"sentence {i}" for i in range(5)],
        name="tiny_texts",
        data_dir="{tfds}",
    ),
    "data source:tfds.columns": of_source(
        "tfds",
        "columns",
        {"text": "translation.en"},
        [f"sentence {i}" for i in range(5)],
        name="tiny_texts",
        data_dir="{tfds}",
    ),
    "data source:tfds.data_dir": of_source(
        "tfds", "data_dir", "{tfds}", [f"text {i}" for i in range(5)], name="tiny_texts"
    ),
    "data source:python_docs": Case(
        _hundreds, source(type="python_docs"), source(type="text_files", **PLAIN)
    ),
    "data.train": Case(
        trains_on("six seven"),
        source(type="text_files", path="{folder}/other.txt"),
        source(type="text_files", **PLAIN),
    ),
}
PARTS = [
    {"weight": 3, "source": {"type": "text_files", **PLAIN}},
    {"weight": 1, "source": {"type": "text_files", "path": "{folder}/other.txt"}},
]


def _shares(*shares):
    def shows(prepared):
        weights = getattr(prepared.train, "weights", ())
        assert [weight / sum(weights) for weight in weights] == list(shares)

    return shows


def _first(text):
    def shows(prepared):
        assert prepared.texts(stores_of(prepared.train)[0]) == {text}

    return shows


def mixture(parts):
    return source(type="mixture", sources=parts)


SOURCES |= {
    "data source:mixture": Case(_shares(0.75, 0.25), mixture(PARTS), source(type="text_files", **PLAIN)),
    "data source:mixture.sources": Case(_shares(0.75, 0.25), mixture(PARTS), mixture(PARTS[:1])),
    "sources.weight": Case(
        _shares(0.75, 0.25), mixture(PARTS), mixture([{**part, "weight": 1} for part in PARTS])
    ),
    "sources.source": Case(_first("one two\n\nthree four\n\nfive"), mixture(PARTS), mixture(PARTS[::-1])),
}


def many(tokenizer="byte", /, **keys):
    train = {"type": "text_files", "path": "{folder}/many.txt", "split_on": "\n\n"}
    return {"tokenizer": tokenizer, "data": {"train": train, "seq_len": 32, "num_workers": 1, **keys}}


def _held_out(prepared):
    assert prepared.texts(prepared.validation) == {"held out"}


def _half(prepared):
    assert 0.3 < prepared.validation.num_documents / 60 < 0.7


def _tested(prepared):
    assert prepared.texts(prepared.test) == {"held out"}


def _half_tested(prepared):
    assert prepared.test is not None and 0.3 < prepared.test.num_documents / 60 < 0.7
    texts = [prepared.texts(rows) for rows in (prepared.train, prepared.validation, prepared.test)]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 60


def _pages_apart(prepared):
    pages = [
        {text.split()[0] for text in prepared.texts(rows)} for rows in (prepared.train, prepared.validation)
    ]
    assert all(pages) and not pages[0] & pages[1] and len(pages[0] | pages[1]) == 12


def _row_length(prepared):
    assert prepared.train.seq_len == 48


def _unpacked(prepared):
    rows = prepared.train.read(range(prepared.train.num_rows))["segment_ids"]
    assert rows.max() == 1


def _cached(prepared):
    assert prepared.train.path.is_relative_to(prepared.folder / "cache")


def _two_processes(prepared):
    assert prepared.processes == 2


def _vocabulary(size):
    def shows(prepared):
        assert not prepared.error, prepared.error
        assert prepared.tokenizer.vocab_size == size

    return shows


def _kind(name):
    def shows(prepared):
        assert prepared.tokenizer.type == name, prepared.error

    return shows


def _keeps_capitals(prepared):
    assert prepared.tokenizer.decode(prepared.tokenizer.encode("A B")) == "A B"


def _merges(prepared):
    assert prepared.tokenizer.model.trainer_spec.model_type == 2, "which is BPE in sentencepiece_model.proto"


LARGE = {"type": "text_files", "path": "{folder}/large.txt", "split_on": "\n\n"}
RICH = {"type": "text_files", "path": "{folder}/rich.txt", "split_on": "\n\n"}
CAPITALS = {"type": "text_files", "path": "{folder}/capitals.txt", "split_on": "\n\n"}
ALONE = {"seq_len": 128, "packing": False}
GROUPED = {"train": {"type": "jsonl", "path": "{folder}/grouped.jsonl"}, "validation_fraction": 0.3, **ALONE}
DATA = {
    "data.validation": Case(
        _held_out, many(validation={"type": "text_files", "path": "{folder}/held.txt"}), many()
    ),
    "data.validation_fraction": Case(_half, many(validation_fraction=0.5), many()),
    "data.test": Case(_tested, many(test={"type": "text_files", "path": "{folder}/held.txt"}), many()),
    "data.test_fraction": Case(_half_tested, many(test_fraction=0.5, **ALONE), many(**ALONE)),
    "data.split_by": Case(_pages_apart, many(split_by="page", **GROUPED), many(**GROUPED)),
    "data.seq_len": Case(_row_length, many(seq_len=48), many()),
    "data.packing": Case(_unpacked, many(packing=False, seq_len=128), many(seq_len=128)),
    "data.cache_dir": Case(_cached, many(cache_dir="{folder}/cache"), many()),
    "data.num_workers": Case(
        _two_processes,
        many(train=LARGE, num_workers=2, cache_dir="{folder}/two"),
        many(train=LARGE, num_workers=1, cache_dir="{folder}/one"),
    ),
    "tokenizer:byte": Case(_vocabulary(259), many("byte"), many({"type": "byte_bpe", "vocab_size": 300})),
    "tokenizer:byte_bpe.vocab_size": Case(
        _vocabulary(300), many({"type": "byte_bpe", "vocab_size": 300}), many({"type": "byte_bpe"})
    ),
    "tokenizer:wordpiece": Case(_kind("wordpiece"), many("wordpiece"), many()),
    "tokenizer:wordpiece.vocab_size": Case(
        _vocabulary(260),
        many({"type": "wordpiece", "vocab_size": 260}, train=RICH),
        many("wordpiece", train=RICH),
    ),
    "tokenizer:wordpiece.lowercase": Case(
        _keeps_capitals,
        many({"type": "wordpiece", "lowercase": False}, train=CAPITALS),
        many("wordpiece", train=CAPITALS),
    ),
    "tokenizer:sentencepiece": Case(_kind("sentencepiece"), many("sentencepiece"), many()),
    "tokenizer:sentencepiece.vocab_size": Case(
        _vocabulary(320), many({"type": "sentencepiece", "vocab_size": 320}), many("sentencepiece")
    ),
    "tokenizer:sentencepiece.algorithm": Case(
        _merges, many({"type": "sentencepiece", "algorithm": "bpe"}), many("sentencepiece")
    ),
}


@pytest.mark.parametrize("key", {**SOURCES, **DATA})
def test_the_rows_are_what_the_keys_say(key, made):
    hold({**SOURCES, **DATA}[key], made)


@pytest.fixture(scope="module")
def saved_tokenizer(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    made(many({"type": "byte_bpe", "vocab_size": 300})).tokenizer.save(folder)
    return folder


def _like(made, folder):
    def resolve(sections):
        text = json.dumps(sections).replace("{saved}", str(folder))
        return made(json.loads(text))

    return resolve


SAVED = {
    "tokenizer:byte_bpe.path": Case(
        _vocabulary(300),
        many({"type": "byte_bpe", "path": "{saved}/tokenizer.json", "vocab_size": 290}),
        many({"type": "byte_bpe", "vocab_size": 290}),
    ),
    "tokenizer:pretrained": Case(_vocabulary(300), many({"type": "pretrained", "source": "{saved}"}), many()),
    "tokenizer:pretrained.source": Case(
        _vocabulary(300),
        many({"type": "pretrained", "source": "{saved}"}),
        many({"type": "pretrained", "source": "{folder}"}),
    ),
    "tokenizer:pretrained.extra_special_tokens": Case(
        _vocabulary(301),
        many({"type": "pretrained", "source": "{saved}", "extra_special_tokens": ["<|user|>"]}),
        many({"type": "pretrained", "source": "{saved}"}),
    ),
}


@pytest.mark.parametrize("key", SAVED)
def test_the_tokenizer_is_the_one_named(key, made, saved_tokenizer):
    hold(SAVED[key], _like(made, saved_tokenizer))


def _learned_from_a_part(budgets):
    assert budgets and all(budget <= 1_000_000 for budget in budgets)


BUDGETS = {
    f"tokenizer:{kind}.train_megabytes": Case(
        _learned_from_a_part, {"type": kind, "train_megabytes": 1}, {"type": kind}
    )
    for kind in ("byte_bpe", "wordpiece", "sentencepiece")
}


@pytest.mark.parametrize("key", BUDGETS)
def test_the_tokenizer_learns_from_so_much_text(key, tmp_path, monkeypatch):
    """What reaches the training of the tokenizer: of 1.6 MB, one."""
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(" ".join(documents(80, seed)) for seed in range(250)))

    def made(keys):
        kinds = {
            "byte_bpe": ByteBPETokenizer,
            "wordpiece": WordPieceTokenizer,
            "sentencepiece": SentencePieceTokenizer,
        }
        kind, seen = kinds[keys["type"]], []
        train = kind.train.__func__

        def counting(cls, texts, **options):
            texts = list(texts)
            seen.append(sum(len(each.encode()) for each in texts))
            return train(cls, texts[:10], **options)

        config = config_from_mapping(mapping(text, tokenizer={"vocab_size": 350, **keys}))
        with monkeypatch.context() as patch:
            patch.setattr(kind, "train", classmethod(counting))
            experiment.make_tokenizer(config, experiment.make_source(config.data.train))
        return seen

    hold(BUDGETS[key], made)


@pytest.mark.slow
def test_a_run_reads_every_kind_of_source(made, runs):
    """One whole training over a mixture of all of them, stopped and gone on with."""
    folder = made(many()).folder
    parts = [
        {"type": "text_files", "path": str(folder / "latin.txt"), "encoding": "latin-1"},
        {"type": "jsonl", "path": str(folder / "lines.jsonl"), "on_error": "skip"},
        {"type": "tfrecord", "path": str(folder / "packed.tfrecord"), "compression": "GZIP"},
        {"type": "text_files", "path": str(folder / "many.txt"), "split_on": "\n\n"},
    ]
    values = {
        "data.train": {"type": "mixture", "sources": [{"weight": 1, "source": part} for part in parts]},
        "data.validation": {"type": "text_files", "path": str(folder / "held.txt")},
        "data.packing": False,
        "data.num_workers": 2,
    }
    run = runs(values, stop_at=3)
    assert run.statuses == [143, 0], run.words
    assert run.lines("validation")[-1]["loss"] < run.lines("validation")[0]["loss"]


CASES = {**SOURCES, **DATA, **SAVED, **BUDGETS}
