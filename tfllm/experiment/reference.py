"""What a model says at the start of each answer that a loss of preferences compares."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.config import ExperimentConfig
from tfllm.data.mixture import RowMixture
from tfllm.data.pipeline import evaluation_batches
from tfllm.data.store import RowStore
from tfllm.experiment.base import round_base
from tfllm.experiment.model import make_model
from tfllm.experiment.model_source import start_from_source
from tfllm.tasks.preference import segment_keys
from tfllm.tokenizers import Tokenizer

Rows = RowStore | RowMixture


def give_reference(
    config: ExperimentConfig,
    task: Any,
    rows: Sequence[Rows],
    *,
    path: Path | None,
    at_start: Callable[[], Any],
    writes: bool = True,
) -> None:
    """Gives a task the log-probabilities of the answers of rows, by the model at the start, without dropout.

    They are computed once in a run, and kept by what the answers and all before them are.

    Args:
        config: The experiment.
        task: One that `needs_reference`.
        rows: The rows.
        path: Where they are kept; None keeps them nowhere.
        at_start: Makes the model; not called where all is known.
        writes: Keep what is new.
    """
    known = _read(path)
    missing = [each for each in rows if not _keys_of(config, each) <= known.keys()]
    if missing:
        model = at_start()
        for each in missing:
            known |= _computed(config, task, model, each)
        if path is not None and writes:
            _write(path, known)
    task.set_reference(np.array(list(known), np.int64), np.array(list(known.values()), np.float32))


def model_at_start(config: ExperimentConfig, tokenizer: Tokenizer) -> Any:
    """The model as a training of a config begins with it."""
    model = make_model(config, tokenizer.vocab_size)
    start_from_source(config, model, notify=lambda line: None)
    round_base(config, model)
    return model


def _batches(config: ExperimentConfig, rows: Rows) -> Any:
    size = config.training.microbatch_size or config.training.global_batch_size
    return evaluation_batches(rows, batch_size=size)


def _keys_of(config: ExperimentConfig, rows: Rows) -> set[int]:
    found: set[int] = set()
    for batch in _batches(config, rows):
        there = batch["example_ids"].numpy() >= 0
        found.update(segment_keys(batch).numpy()[there].tolist())
    return found


def _computed(config: ExperimentConfig, task: Any, model: Any, rows: Rows) -> dict[int, float]:
    @tf.function(autograph=False, jit_compile=config.training.jit_compile)
    def said(features: dict[str, tf.Tensor]) -> tf.Tensor:
        sums, _ = task.log_probs(model, features, model(features))
        return sums

    found: dict[int, float] = {}
    for batch in _batches(config, rows):
        there = batch["example_ids"].numpy() >= 0
        keys, values = segment_keys(batch).numpy()[there], said(batch).numpy()[there]
        found.update(zip(keys.tolist(), values.tolist(), strict=True))
    return found


def _read(path: Path | None) -> dict[int, float]:
    if path is None or not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return dict(zip(file["keys"].tolist(), file["values"].tolist(), strict=True))


def _write(path: Path, known: dict[int, float]) -> None:
    part = path.with_name(f".part_{os.getpid()}_{path.name}")
    with part.open("wb") as file:
        np.savez(
            file, keys=np.array(list(known), np.int64), values=np.array(list(known.values()), np.float32)
        )
    part.replace(path)  # whole or not there
