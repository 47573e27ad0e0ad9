"""The command tfllm predict."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfllm.commands.arguments import add_model
from tfllm.commands.start import start_tensorflow
from tfllm.commands.whole_file import whole_file
from tfllm.config import ConfigError, Problem
from tfllm.config.data import ConllConfig, CsvConfig, JsonlConfig
from tfllm.config.home import expand_home

SUMMARY = (
    "say of each record of a file what a model tells: a class, a number, names, an answer, a translation."
)

EPILOG = """Each line that it writes is a JSON object: `record`, what the file says, and what the model says: `label`,
`score` and `scores` of classes, `labels` and `scores` where a text may have several, `value`, a number; of a model
that tags words `entities`, and `tags` where the record is `tokens`, as in JSON lines and .conll files; of one that
finds answers `answer`, `start`, `end`, `score` and `null_odds`; of one that writes targets to sources, or replies in
conversations, `written`.

The columns are called as in the text that the model was trained on, or as --columns says:
  tfllm predict runs/sentiment new.csv --columns text=review --out said.jsonl"""

_READ = {  # the columns that are read, by what the model tells
    "classes": ("text", "text_pair"),
    "numbers": ("text", "text_pair"),
    "relations": ("text", "head", "tail"),
    "tags": ("text", "tokens"),
    "answers": ("question", "context"),
    "targets": ("source",),
    "replies": ("messages", "conversations", "prompt", "tools"),
}
_OURS = tuple(dict.fromkeys(name for names in _READ.values() for name in names))
_AT_ONCE = 1024  # records between two writes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_model(parser)
    parser.add_argument(
        "file", metavar="FILE", help="a .csv, .tsv, .jsonl or .conll file, or one of these as .gz"
    )
    parser.add_argument(
        "--columns",
        metavar="OURS=THEIRS",
        nargs="+",
        default=[],
        help="what the file calls text, text_pair, tokens, question, context, head, tail, source, messages or prompt",
    )
    parser.add_argument("--out", metavar="FILE", help="where the lines go (default: the output)")


def run(arguments: argparse.Namespace) -> int:
    """Writes a line for each record, in their order."""
    columns = _columns(arguments.columns)
    kind = _kind(arguments.file)

    start_tensorflow()
    import tfllm
    from tfllm import experiment
    from tfllm.generation.errors import GenerationError

    lm = tfllm.load(arguments.run, jit_compile=False)
    if lm.tells is None:
        raise GenerationError(
            "this model tells nothing of texts; train one with task.type=classification, regression,"
            " token_classification, relation_extraction, span_qa, seq2seq or chat"
        )
    if kind is ConllConfig and lm.tells != "tags":
        rule, mend = "holds words and their tags, and this model tells none", "write a .csv or .jsonl file"
        raise ConfigError([Problem("FILE", arguments.file, rule, mend)], "the arguments")
    columns = {
        name: column for name, column in _all_columns(lm, kind, columns).items() if name in _READ[lm.tells]
    }
    source = experiment.make_source(kind(path=(str(expand_home(arguments.file, "FILE")),), columns=columns))
    with whole_file(arguments.out, "--out") if arguments.out else contextlib.nullcontext(sys.stdout) as out:
        records = source.records()
        while chunk := list(itertools.islice(records, _AT_ONCE)):
            for record, each in zip(chunk, _said(lm, chunk), strict=True):
                out.write(_line({"record": dict(record.fields), **each}))
    return 0


def _all_columns(lm: Any, kind: Any, columns: dict[str, Any]) -> dict[str, Any]:
    """What is asked for, and else what the training text called its columns."""
    trained = lm.config.data.train
    if kind is ConllConfig:
        place = columns.get(
            "tokens", trained.columns.get("tokens", 0) if isinstance(trained, ConllConfig) else 0
        )
        if not str(place).removeprefix("-").isdecimal():
            rule, mend = "must be the place of the words in a line of CoNLL", "write for example tokens=1"
            raise ConfigError([Problem("--columns", f"tokens={place}", rule, mend)], "the arguments")
        return {"tokens": int(place)}
    named = trained.columns if isinstance(trained, CsvConfig | JsonlConfig) else {}
    if not getattr(lm.config.task, "pairs", False):
        named = {name: column for name, column in named.items() if name != "text_pair"}
    return columns if columns and lm.tells == "tags" else {**named, **columns}


def _said(lm: Any, records: Sequence[Any]) -> list[dict[str, Any]]:
    """What the model says of each record."""
    if lm.tells == "tags":
        return _tagged(lm, records)
    if lm.tells == "answers":
        questions, contexts = ([record.text(name) for record in records] for name in _READ["answers"])
        return list(lm.answer(questions, contexts))
    if lm.tells == "targets":
        return [{"written": text} for text in lm.write([record.text("source") for record in records])]
    if lm.tells == "replies":
        return _replies(lm, records)
    given: Any = [record.text("text") for record in records]
    if lm.tells == "relations":
        heads, tails = ([record.value(name) for record in records] for name in ("head", "tail"))
        return list(lm.relate(given, heads, tails))
    if getattr(lm.config.task, "pairs", False):
        given = list(zip(given, (record.text("text_pair") for record in records), strict=True))
    if lm.tells == "numbers":
        return [{"value": float(value)} for value in lm.regress(given)]
    return list(lm.classify(given))


def _replies(lm: Any, records: Sequence[Any]) -> list[dict[str, Any]]:
    """What the model answers, greedily, to what a record says before its last answer."""
    from tfllm import experiment
    from tfllm.experiment.writing import written

    task = experiment.make_task(lm.config, lm.tokenizer)
    return [{"written": text} for text in written(lm.config, lm.generator, lm.tokenizer, task, records)]


def _tagged(lm: Any, records: Sequence[Any]) -> list[dict[str, Any]]:
    """The tags of the words of a record, or the spans of its text."""
    by_words = [record for record in records if "tokens" in record.fields]
    said = iter(lm.tag([record.value("tokens") for record in by_words]))
    spans = iter(lm.entities([record.text("text") for record in records if "tokens" not in record.fields]))
    return [
        {"tags": next(said)} if "tokens" in record.fields else {"entities": next(spans)} for record in records
    ]


def _line(mapping: dict[str, Any]) -> str:
    line = json.dumps(mapping, ensure_ascii=False)
    if any("\ud800" <= character <= "\udfff" for character in line):  # half a pair, which UTF-8 does not hold
        line = json.dumps(mapping)
    return line + "\n"


def _columns(words: list[str]) -> dict[str, str]:
    """What stands in the file for each of our columns."""
    columns = dict(word.partition("=")[::2] for word in words)
    for ours, theirs in columns.items():
        if ours not in _OURS or not theirs:
            rule, mend = (
                f"must say which column is one of {', '.join(_OURS)}",
                "write for example text=review",
            )
            raise ConfigError([Problem("--columns", f"{ours}={theirs}", rule, mend)], "the arguments")
    return columns


def _kind(file: str) -> Any:
    """The kind of source that the file's name says."""
    endings = Path(file).name.lower().removesuffix(".gz").rpartition(".")
    kinds: dict[str, Any] = {
        **dict.fromkeys(("csv", "tsv"), CsvConfig),
        **dict.fromkeys(("jsonl", "json"), JsonlConfig),
        "conll": ConllConfig,
    }
    if endings[2] not in kinds or not endings[1]:
        rule, mend = "must end in .csv, .tsv, .jsonl or .conll", "rename it, or write one of these"
        raise ConfigError([Problem("FILE", file, rule, mend)], "the arguments")
    return kinds[endings[2]]
