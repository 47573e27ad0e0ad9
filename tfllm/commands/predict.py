"""The command tfllm predict."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from tfllm.commands.arguments import add_model
from tfllm.commands.start import start_tensorflow
from tfllm.commands.whole_file import whole_file
from tfllm.config import ConfigError, Problem
from tfllm.config.data import CsvConfig, JsonlConfig
from tfllm.config.home import expand_home

SUMMARY = "say the class, the classes or the number of each text of a file."

EPILOG = """Each line that it writes is a JSON object: `record`, what the file says, and what the model says: `label`,
`score` and `scores` of classes, `labels` and `scores` where a text may have several, or `value`, a number.

The columns are called as in the text that the model was trained on, or as --columns says:
  tfllm predict runs/sentiment new.csv --columns text=review --out said.jsonl"""

_AT_ONCE = 1024  # records between two writes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_model(parser)
    parser.add_argument("file", metavar="FILE", help="a .csv, .tsv or .jsonl file, or one of these as .gz")
    parser.add_argument(
        "--columns",
        metavar="OURS=THEIRS",
        nargs="+",
        default=[],
        help="what the file calls text and text_pair",
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
    if lm.class_names is None and not lm.tells_numbers:
        raise GenerationError(
            "this model tells neither classes nor numbers from texts; train one with task.type=classification or"
            " regression"
        )
    ours = ("text", "text_pair") if getattr(lm.config.task, "pairs", False) else ("text",)
    trained = getattr(lm.config.data.train, "columns", {})
    columns = {name: column for name, column in {**trained, **columns}.items() if name in ours}
    source = experiment.make_source(kind(path=(str(expand_home(arguments.file, "FILE")),), columns=columns))
    with whole_file(arguments.out, "--out") if arguments.out else contextlib.nullcontext(sys.stdout) as out:
        records = source.records()
        while chunk := list(itertools.islice(records, _AT_ONCE)):
            texts = [record.text(ours[0]) for record in chunk]
            given: Any = texts
            if len(ours) == 2:
                given = list(zip(texts, (record.text(ours[1]) for record in chunk), strict=True))
            said = (
                [{"value": float(value)} for value in lm.regress(given)]
                if lm.tells_numbers
                else lm.classify(given)
            )
            for record, each in zip(chunk, said, strict=True):
                out.write(_line({"record": dict(record.fields), **each}))
    return 0


def _line(mapping: dict[str, Any]) -> str:
    line = json.dumps(mapping, ensure_ascii=False)
    if any("\ud800" <= character <= "\udfff" for character in line):  # half a pair, which UTF-8 does not hold
        line = json.dumps(mapping)
    return line + "\n"


def _columns(words: list[str]) -> dict[str, str]:
    """What stands in the file for each of our columns."""
    columns = dict(word.partition("=")[::2] for word in words)
    for ours, theirs in columns.items():
        if ours not in ("text", "text_pair") or not theirs:
            rule, mend = "must say which column is text or text_pair", "write for example text=review"
            raise ConfigError([Problem("--columns", f"{ours}={theirs}", rule, mend)], "the arguments")
    return columns


def _kind(file: str) -> type[CsvConfig] | type[JsonlConfig]:
    """The kind of source that the file's name says."""
    endings = Path(file).name.lower().removesuffix(".gz").rpartition(".")
    kinds: dict[str, Any] = {"csv": CsvConfig, "tsv": CsvConfig, "jsonl": JsonlConfig, "json": JsonlConfig}
    if endings[2] not in kinds or not endings[1]:
        rule, mend = "must end in .csv, .tsv or .jsonl", "rename it, or write one of these"
        raise ConfigError([Problem("FILE", file, rule, mend)], "the arguments")
    return kinds[endings[2]]
