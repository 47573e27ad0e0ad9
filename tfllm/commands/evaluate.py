"""The command tfllm evaluate."""

from __future__ import annotations

import argparse
import json

from tfllm.commands.arguments import add_run
from tfllm.commands.start import start_tensorflow

SUMMARY = "loss, perplexity and bits a byte of a run on its validation split."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_run(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluates and prints one JSON object."""
    start_tensorflow()
    import tfllm
    from tfllm import experiment

    lm = tfllm.load(arguments.run)
    rows = experiment.prepare(lm.config, lm.tokenizer).validation
    task = experiment.make_task(lm.config, lm.tokenizer)
    evaluator = experiment.make_evaluator(lm.config, lm.model, task, rows)
    print(json.dumps({"step": lm.step, **evaluator.evaluate()}))
    return 0
