"""tfllm prepare: train the tokenizer and tokenise the text of a config, ahead of training."""

from __future__ import annotations

import argparse

from tfllm.commands.arguments import OVERRIDES, add_config
from tfllm.commands.start import start_tensorflow
from tfllm.config import load_config

EPILOG = OVERRIDES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_config(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prepares, and says what there is."""
    config = load_config(arguments.config, arguments.overrides)

    start_tensorflow()
    from tfllm import experiment

    prepared = experiment.prepare(config)
    print(f"tokenizer   {config.tokenizer.type}, {prepared.tokenizer.vocab_size} tokens")
    for name, rows in (("train", prepared.train), ("validation", prepared.validation)):
        fill = rows.num_tokens / (rows.num_rows * rows.seq_len)
        print(f"{name:<12}{rows.summary}")
        print(
            f"{'':<12}{rows.num_bytes / rows.num_tokens:.2f} bytes a token, rows {fill:.1%} full: {rows.path}"
        )
    return 0
