"""tfllm train: train a model as a config says, or go on where its run stopped."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tfllm.commands.arguments import OVERRIDES, add_config
from tfllm.commands.start import start_tensorflow
from tfllm.config import load_config

EPILOG = OVERRIDES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_config(parser)
    parser.add_argument("--run-dir", metavar="DIR", help="the run folder (default: runs/<name>)")


def run(arguments: argparse.Namespace) -> int:
    """Trains; the exit status is 130 when Ctrl-C stopped it."""
    config = load_config(arguments.config, arguments.overrides)
    run_dir = Path(arguments.run_dir or Path("runs") / config.name)

    start_tensorflow()
    from tfllm import experiment

    finished = experiment.train(config, run_dir)
    if not finished:
        print(f"stopped and saved in {run_dir}; run the same command again to go on", file=sys.stderr)
        return 130
    if config.export.at_end:
        from tfllm.commands.export import export_run

        export_run(run_dir)
    print(f"trained: {run_dir}")
    return 0
