"""Rows of a task, and what a model says of them."""

from tfllm.data import prepare_rows
from tfllm.data.pipeline import evaluation_batches
from tfllm.evaluation.evaluator import Evaluator


def rows_of(task, tokenizer, folder, source, *, seq_len, packing=True):
    return prepare_rows(
        source=source,
        tokenizer=tokenizer,
        seq_len=seq_len,
        packing=packing,
        maker=task.examples_of(tokenizer, seq_len=seq_len, packing=packing),
        cache_dir=folder,
    )


def evaluated(task, model, store, size=64, *, source=None):
    """Evaluates in batches of a size; with a source the task is given its records."""
    return Evaluator(
        model=model,
        task=task,
        batches=lambda: evaluation_batches(
            store, batch_size=size, transform=task.features, aligned=task.aligned
        ),
        jit_compile=False,
        records=None if source is None else lambda: enumerate(source.records()),
    ).run()
