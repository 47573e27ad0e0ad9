"""The data section and its sources."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from tfllm.config.errors import Problem
from tfllm.config.registry import Registry
from tfllm.config.setting import setting

SOURCES = Registry("data source")

_ON_ERROR = ("raise", "skip")


@SOURCES.register("python_docs", builds="tfllm.data.sources:PythonDocsSource")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PythonDocsConfig:
    """The English that CPython carries: language reference and standard library docstrings."""

    type: str = "python_docs"


@SOURCES.register("text_files", builds="tfllm.data.sources:TextFilesSource")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFilesConfig:
    """Plain or gzip text files, a document each."""

    type: str = "text_files"
    path: tuple[str, ...] = setting(help="file that exists, else a glob; or a list of them")
    encoding: str = setting("utf-8", "text encoding of the files")
    split_on: str | None = setting(None, "text that separates documents inside a file")
    on_error: str = setting(
        "raise", "what to do with files that are no text, or broken", choices=(*_ON_ERROR, "replace")
    )


@SOURCES.register("jsonl", builds="tfllm.data.sources:JsonlSource")
@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonlConfig:
    """One JSON object a line, the text under `text_key`, or several `columns`."""

    type: str = "jsonl"
    path: tuple[str, ...] = setting(help="file that exists, else a glob; or a list of them")
    text_key: str = setting("text", "key of the text, where no columns are named")
    columns: dict[str, str] = setting(
        {}, "keys of a task's columns, by their names here, e.g. {anchor: query, positive: answer}"
    )
    on_error: str = setting("raise", "what to do with broken lines and files", choices=_ON_ERROR)


@SOURCES.register("csv", builds="tfllm.data.sources:CsvSource")
@dataclasses.dataclass(frozen=True, kw_only=True)
class CsvConfig:
    """CSV or TSV files, a record a line, with the names of the columns in the first."""

    type: str = "csv"
    path: tuple[str, ...] = setting(help="file that exists, else a glob; or a list of them")
    columns: dict[str, str] = setting(
        {}, "what the files call a column, by its name here, e.g. {text: review}"
    )
    delimiter: str | None = setting(None, "between fields; null: a tab in .tsv files, else a comma")
    on_error: str = setting("raise", "what to do with broken lines and files", choices=_ON_ERROR)

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            rule = "is not one character that can stand between fields"
            yield Problem(f"{path}.delimiter", self.delimiter, rule, 'write for example "," or "\\t"')
        theirs = list(self.columns.values())
        for name in sorted({name for name in theirs if theirs.count(name) > 1}):
            rule = f"names the column {name!r} twice"
            yield Problem(f"{path}.columns", self.columns, rule, "give each of our columns one of its own")


@SOURCES.register("conll", builds="tfllm.data.sources:ConllSource")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ConllConfig:
    """Files of CoNLL: a word a line, with its tag; a record is a sentence, and a blank line ends it."""

    type: str = "conll"
    path: tuple[str, ...] = setting(help="file that exists, else a glob; or a list of them")
    columns: dict[str, int] = setting(
        {"tokens": 0, "tags": -1}, "the place of each column in a line, from 0, or from the end, -1"
    )
    on_error: str = setting("raise", "what to do with broken sentences and files", choices=_ON_ERROR)


@SOURCES.register("squad", builds="tfllm.data.sources:SquadSource")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SquadConfig:
    """JSON files as SQuAD 1.1 and 2.0 have them; a record is a question with its context and answers."""

    type: str = "squad"
    path: tuple[str, ...] = setting(help="file that exists, else a glob; or a list of them")


@SOURCES.register("parquet", builds="tfllm.data.sources:ParquetSource")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ParquetConfig:
    """Parquet files, a record a row."""

    type: str = "parquet"
    path: tuple[str, ...] = setting(help="file that exists, else a glob; or a list of them")
    columns: dict[str, str] = setting(
        {}, "what the files call a column, by its name here, e.g. {text: review}"
    )


@SOURCES.register("parallel_text", builds="tfllm.data.sources:ParallelTextSource")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelTextConfig:
    """Two files of texts that belong together, line by line, such as corpus.en and corpus.fr."""

    type: str = "parallel_text"
    source: tuple[str, ...] = setting(help="file that exists, else a glob; or a list of them")
    target: tuple[str, ...] = setting(
        help="the same for what is written; files pair up in the order of their names"
    )


@SOURCES.register("tfds", builds="tfllm.data.sources:TfdsSource")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsConfig:
    """A TensorFlow Datasets text dataset."""

    type: str = "tfds"
    name: str = setting(help="dataset name, e.g. imdb_reviews/plain_text:1.0.0")
    split: str = setting("train", "split, tfds slicing allowed, e.g. train[:90%]")
    text_key: str = setting("text", "feature that holds the text")
    columns: dict[str, str] = setting(
        {},
        "features of a task's columns, by their names here, e.g. {source: translation.en, target: translation.fr}",
    )
    data_dir: str | None = setting(None, "where tfds keeps prepared data")


@SOURCES.register("tfrecord", builds="tfllm.data.sources:TfRecordSource")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TfRecordConfig:
    """TFRecord files of tf.train.Example."""

    type: str = "tfrecord"
    path: tuple[str, ...] = setting(help="file that exists, else a glob; or a list of them")
    text_key: str = setting("text", "bytes feature that holds the text")
    compression: str | None = setting(
        None, "compression, where their first bytes do not say it", choices=("GZIP", "ZLIB")
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixturePartConfig:
    """One source of a mixture."""

    weight: float = setting(help="share of the rows, relative to the other weights", above=0.0)
    source: Any = setting(help="the text", registry=SOURCES)


@SOURCES.register("mixture", builds="tfllm.data.sources:MixtureSource")
@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """Several sources, rows drawn from each in proportion to its weight; for data.train only."""

    type: str = "mixture"
    sources: tuple[MixturePartConfig, ...] = setting(help="a list of {weight, source}")

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        if not self.sources:
            yield Problem(f"{path}.sources", [], "names no source", "list at least one {weight, source}")
        for index, part in enumerate(self.sources):
            if isinstance(part.source, MixtureConfig):
                rule = "is a mixture inside a mixture"
                mend = f"list its sources in {path}.sources, their weights multiplied out"
                yield Problem(f"{path}.sources[{index}].source.type", "mixture", rule, mend)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Altered copies of the records to train on."""

    copies: int = setting(0, "altered copies of each record, beside it; 0: none", minimum=0, maximum=100)
    word_dropout: float = setting(
        0.0, "share of the words of a copy that are left out, with their tags", minimum=0.0, below=1.0
    )
    lowercase: float = setting(0.0, "share of the copies in small letters", minimum=0.0, maximum=1.0)
    typos: float = setting(
        0.0,
        "share of the words with a letter left out, doubled or before its neighbour",
        minimum=0.0,
        maximum=1.0,
    )

    @property
    def alters(self) -> bool:
        """Whether copies differ from their records."""
        return bool(self.word_dropout or self.lowercase or self.typos)

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        if self.copies and not self.alters:
            rule, mend = "makes copies in which nothing differs", f"write for example {path}.word_dropout=0.1"
            yield Problem(f"{path}.copies", self.copies, rule, mend)
        if self.alters and not self.copies:
            yield Problem(f"{path}.copies", 0, "makes none to be altered", "write for example 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which text, and how it becomes rows."""

    train: Any | None = setting(None, "the training text; needed to train, not to generate", registry=SOURCES)
    validation: Any | None = setting(
        None,
        "the held-out text; without a type as data.train, but for what it says; null: a share of its documents",
        registry=SOURCES,
    )
    validation_fraction: float = setting(
        0.05, "share of documents held out when data.validation is null", above=0.0, below=1.0
    )
    test: Any | None = setting(
        None,
        "text to test on, once, when training is over; without a type as data.train, but for what it says",
        registry=SOURCES,
    )
    test_fraction: float = setting(
        0.0, "share of documents held out to test on, the same whatever the seed", minimum=0.0, below=1.0
    )
    split_by: str | None = setting(
        None,
        "column that says what belongs together, such as a page: all its documents fall on one side; null: the text",
    )
    augment: AugmentConfig = setting({})
    seq_len: int = setting(256, "tokens a row", minimum=2)
    on_too_long: str | None = setting(
        None,
        "drop leaves the record out, error refuses it; of sources cut_source leaves out the end, and of conversations"
        " cut_oldest_turns what was said first; null: one of these two",
        choices=("cut_source", "cut_oldest_turns", "drop", "error"),
    )
    packing: bool = setting(True, "several documents a row; false: one, padded to a bucket")
    cache_dir: str | None = setting(
        None, "where tokenised rows are kept; null: $TFLLM_CACHE or ~/.cache/tfllm"
    )
    num_workers: int | None = setting(None, "processes that tokenise; null: one a core", minimum=1)

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        if self.train is None and self.validation is None:
            return
        yield from self._check_held_out(path, "validation")
        yield from self._check_held_out(path, "test")
        if self.test is not None and self.test_fraction:
            rule = f"holds documents of {path}.train out, and {path}.test is given"
            yield Problem(f"{path}.test_fraction", self.test_fraction, rule, "leave one of both out")
        if self.split_by is not None and self.validation is not None and not self.test_fraction:
            rule = f"divides {path}.train, of which nothing is held out"
            yield Problem(f"{path}.split_by", self.split_by, rule, f"leave it out, or {path}.validation")

    def _check_held_out(self, path: str, side: str) -> Iterator[Problem]:
        parts = self.train.sources if isinstance(self.train, MixtureConfig) else ()
        held_out = getattr(self, side)
        if held_out is None:
            return
        if held_out == self.train or held_out in [part.source for part in parts]:
            rule = f"is the text of {path}.train, so its loss would say nothing"
            mend = "leave it out to hold documents out, or give other text"
            yield Problem(f"{path}.{side}", Problem.ABSENT, rule, mend)
        elif side == "test" and held_out == self.validation:
            rule = f"is the text of {path}.validation, which chooses the checkpoint"
            yield Problem(f"{path}.{side}", Problem.ABSENT, rule, "leave it out, or give other text")
        elif isinstance(held_out, MixtureConfig):
            rule = "is for training: every held-out row is read once, whatever its weight"
            mend = "name one source, or leave it out to hold documents of every source out"
            yield Problem(f"{path}.{side}.type", "mixture", rule, mend)
