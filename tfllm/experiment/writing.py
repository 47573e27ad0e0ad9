"""What a model writes to each source of a text that is held out."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.config import ExperimentConfig
from tfllm.data.record import Record
from tfllm.evaluation.predictions import Prediction
from tfllm.experiment.source import held_out_records
from tfllm.experiment.stop_tokens import stop_ids
from tfllm.generation.generate import Generator
from tfllm.tasks.seq2seq import WRITTEN
from tfllm.tokenizers import Tokenizer
from tfllm.training.distribution import gather_from_workers, num_workers, worker_index

_AT_ONCE = 32  # texts


def writer(
    config: ExperimentConfig,
    model: Any,
    tokenizer: Tokenizer,
    task: Any,
    side: str,
    strategy: tf.distribute.Strategy,
) -> Callable[[], list[Prediction]]:
    """Makes what writes texts while evaluating, greedily: the likeliest token each time.

    Every worker writes its share, with the weights of its first replica, which are those of all, and has all of them.

    Args:
        config: The experiment; of its evaluation `max_examples`, of its generation `max_new_tokens`.
        model: The model.
        tokenizer: Its tokenizer.
        task: Its task, which makes prompts.
        side: validation or test.
        strategy: The strategy that the model was made under.
    """
    generator = Generator(
        model,
        stop_ids=stop_ids(tokenizer, config.generation.stop_tokens),
        pad_id=tokenizer.pad_id,
        num_tokens=tokenizer.vocab_size,
        jit_compile=False,  # whose compiling would take longer than the writing
        label=tokenizer.token_label,
    )
    maker = task.examples_of(tokenizer, seq_len=config.data.seq_len, packing=config.data.packing)

    @functools.cache  # a source may be long, and its records are the same every time
    def chosen_records() -> list[tuple[int, Record]]:
        records = ((number, each) for number, each in held_out_records(config, side) if maker.keeps(each))
        return list(itertools.islice(records, config.evaluation.max_examples))

    def write() -> list[Prediction]:
        chosen = chosen_records()
        count, own = num_workers(strategy), worker_index(strategy)
        share = [record for _, record in chosen[own::count]]
        ids = gathered(strategy, _written_ids(config, generator, task, share), len(chosen))
        texts = [task.told(tokenizer.decode(each)) for each in ids]
        return [
            Prediction(number, {WRITTEN: np.asarray(text)}, record)
            for (number, record), text in zip(chosen, texts, strict=True)
        ]

    return write


def written(
    config: ExperimentConfig,
    generator: Generator,
    tokenizer: Tokenizer,
    task: Any,
    records: Sequence[Record],
    **settings: Any,
) -> list[str]:
    """Writes a text to each record.

    Args:
        config: The experiment.
        generator: Of the model.
        tokenizer: Its tokenizer.
        task: Its task.
        records: The records, of which only the source is read.
        settings: Of the generator; greedily, and as many tokens as the config says, where they say nothing.
    """
    ids = _written_ids(config, generator, task, records, **settings)
    return [task.told(tokenizer.decode(each)) for each in ids]


def gathered(strategy: tf.distribute.Strategy, own: Sequence[Sequence[int]], total: int) -> list[list[int]]:
    """Puts together what all workers wrote, at every worker.

    Args:
        strategy: The strategy.
        own: The ids of this worker's texts: of every text whose place is its index, counted in steps of their number.
        total: Texts of all.

    Returns:
        The ids of each text.
    """
    count = num_workers(strategy)
    if count == 1:
        return [list(ids) for ids in own]
    most = -(-total // count)
    lengths = [len(ids) for ids in own] + [0] * (most - len(own))
    all_lengths = gather_from_workers(strategy, lengths)
    longest = max(map(sum, all_lengths))
    flat = [token_id for ids in own for token_id in ids]
    all_ids = gather_from_workers(strategy, flat + [0] * (longest - len(flat))) if longest else [[]] * count
    found: list[list[int]] = [[]] * total
    for worker in range(count):
        ends = list(itertools.accumulate(all_lengths[worker]))
        for at, (length, end) in enumerate(zip(all_lengths[worker], ends, strict=True)):
            if worker + at * count < total:
                found[worker + at * count] = all_ids[worker][end - length : end]
    return found


def _written_ids(
    config: ExperimentConfig, generator: Generator, task: Any, records: Sequence[Record], **settings: Any
) -> list[list[int]]:
    settings = {"max_new_tokens": config.generation.max_new_tokens, "temperature": 0.0, **settings}
    room = prompt_room(config, settings["max_new_tokens"])
    prompts = [task.prompt_of(record, room) for record in records]
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    texts: list[list[int]] = [[]] * len(prompts)
    for chosen in _chunks(by_length):
        rows = [prompts[index] for index in chosen]
        filled = rows + rows[-1:] * (_AT_ONCE - len(rows) if len(prompts) > _AT_ONCE else 0)  # one shape
        for index, ids in zip(chosen, generator(filled, **settings), strict=False):
            texts[index] = list(map(int, ids))
    return texts


def prompt_room(config: ExperimentConfig, max_new_tokens: int) -> int | None:
    """The longest prompt, in tokens; None has no limit."""
    if config.context_is_open:
        return None
    return config.context_length - (max_new_tokens if config.kind == "decoder" else 0)


def _chunks(indices: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(indices), _AT_ONCE):
        yield indices[start : start + _AT_ONCE]
