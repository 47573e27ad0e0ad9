"""Sources: where documents come from. A source is one small class that yields text."""

from tfllm.data.sources.conll import ConllSource
from tfllm.data.sources.csv import CsvSource
from tfllm.data.sources.files import check_apart
from tfllm.data.sources.jsonl import JsonlSource
from tfllm.data.sources.mixture import MixtureSource
from tfllm.data.sources.parallel_text import ParallelTextSource
from tfllm.data.sources.parquet import ParquetSource
from tfllm.data.sources.python_docs import PythonDocsSource
from tfllm.data.sources.source import Source
from tfllm.data.sources.squad import SquadSource
from tfllm.data.sources.text_files import TextFilesSource
from tfllm.data.sources.tfds import TfdsSource
from tfllm.data.sources.tfrecord import TfRecordSource

__all__ = [
    "ConllSource",
    "CsvSource",
    "JsonlSource",
    "MixtureSource",
    "ParallelTextSource",
    "ParquetSource",
    "PythonDocsSource",
    "Source",
    "SquadSource",
    "TextFilesSource",
    "TfRecordSource",
    "TfdsSource",
    "check_apart",
]
