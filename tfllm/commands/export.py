"""tfllm export: write a text-in, text-out SavedModel for TensorFlow Serving."""

from __future__ import annotations

import argparse
from pathlib import Path

from tfllm.commands.arguments import add_run
from tfllm.commands.start import start_tensorflow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_run(parser)
    parser.add_argument("--to", metavar="DIR", help="parent of the version folders (default: RUN/export)")


def run(arguments: argparse.Namespace) -> int:
    """Exports and prints the folder."""
    print(export_run(arguments.run, arguments.to))
    return 0


def export_run(run_dir: str | Path, to: str | Path | None = None) -> Path:
    """Exports a run into the next version folder and returns it."""
    start_tensorflow()
    import tfllm
    from tfllm.export.saved_model import export_saved_model

    lm = tfllm.load(run_dir)
    return export_saved_model(
        lm.model,
        lm.tokenizer,
        Path(to) if to is not None else Path(run_dir) / "export",
        generation=lm.config.generation,
        max_new_tokens=lm.config.export.max_new_tokens,
    )
