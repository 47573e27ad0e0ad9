"""Data: sources of documents, fixed rows on disk, and the tf.data pipeline that reads them.

Text flows `sources` (documents) → `split` → tokenizer → `packing` (fixed rows) → `store` (rows on disk) →
`pipeline` (shuffle, read, batch, prefetch). Everything up to the store is numpy and imports no TensorFlow;
`tfllm.data.pipeline` is imported by name where batches are needed.
"""

from tfllm.data.errors import DataError
from tfllm.data.mixture import RowMixture
from tfllm.data.packing import RowPacker, positions_from_segments
from tfllm.data.prepare import prepare_rows
from tfllm.data.sources import (
    ConllSource,
    CsvSource,
    JsonlSource,
    MixtureSource,
    ParallelTextSource,
    ParquetSource,
    PythonDocsSource,
    Source,
    SquadSource,
    TextFilesSource,
    TfdsSource,
    TfRecordSource,
)
from tfllm.data.split import Split, split_of
from tfllm.data.store import RowStore

__all__ = [
    "ConllSource",
    "CsvSource",
    "DataError",
    "JsonlSource",
    "MixtureSource",
    "ParallelTextSource",
    "ParquetSource",
    "PythonDocsSource",
    "RowMixture",
    "RowPacker",
    "RowStore",
    "Source",
    "Split",
    "SquadSource",
    "TextFilesSource",
    "TfRecordSource",
    "TfdsSource",
    "positions_from_segments",
    "prepare_rows",
    "split_of",
]
