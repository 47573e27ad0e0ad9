"""The command tfllm prepare."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

from tfllm.commands.arguments import OVERRIDES, add_config
from tfllm.commands.start import start_tensorflow
from tfllm.config import load_config

SUMMARY = "train the tokenizer and tokenise the text of a config, ahead of training."

_LINE = "{desc}: {n_fmt}B in {elapsed}, {rate_fmt}{postfix}\n"  # where nobody watches

EPILOG = f"""Interrupted or killed, the same command goes on where it was.

{OVERRIDES}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_config(parser)
    parser.add_argument(
        "--verify", action="store_true", help="read all rows and compare them with their checksums"
    )


def run(arguments: argparse.Namespace) -> int:
    """Prepares, and says what there is."""
    config = load_config(arguments.config, arguments.overrides)

    start_tensorflow()
    from tfllm import experiment
    from tfllm.data.mixture import stores_of

    config = experiment.with_labels(experiment.expand(config))
    bars = Bars()
    try:
        prepared = experiment.prepare(config, progress=bars.progress)
        print(f"tokenizer   {config.tokenizer.type}, {prepared.tokenizer.vocab_size} tokens")
        for name, rows in prepared.sides.items():
            for store in stores_of(rows):
                room = sum(length for _, length in store.layout.sides)
                fill = store.num_tokens / (store.num_rows * room)
                print(f"{name:<12}{store.summary}")
                ratio = store.num_bytes / store.num_tokens
                print(f"{'':<12}{ratio:.2f} bytes a token, rows {fill:.1%} full: {store.path}")
                if arguments.verify:
                    store.verify(bars.amount("verifying", store.num_rows * store.row_bytes))
                    bars.close()
                    print(f"{'':<12}all rows are as they were written")
    finally:
        bars.close()
    return 0


class Bars:
    """A progress bar at a time where someone watches, a line a minute where a file does.

    Args:
        stream: Where to write; None is what `sys.stderr` is then.
    """

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self._name = ""
        self._bar: tqdm | None = None

    def progress(self, name: str) -> Callable[[int, int], None]:
        """Returns what `prepare_rows` reports to; a bar called `name` begins with the first report."""

        def report(documents: int, num_bytes: int) -> None:
            if self._bar is None or self._name != name:
                self._bar = self._begin(name, initial=num_bytes)
            self._bar.set_postfix_str(f"{documents:,} documents", refresh=False)
            self._bar.update(num_bytes - self._bar.n)

        return report

    def amount(self, name: str, total: int) -> Callable[[int], None]:
        """Begins a bar of `total` bytes and returns what moves it by the bytes it is given."""
        bar = self._bar = self._begin(name, total=total)

        def advance(num_bytes: int) -> None:
            bar.update(num_bytes)

        return advance

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _begin(self, name: str, *, initial: int = 0, total: int | None = None) -> tqdm:
        self.close()
        self._name = name
        unwatched: dict[str, Any] = {"mininterval": 60, "maxinterval": 60, "delay": 60, "bar_format": _LINE}
        watched = self.stream.isatty()
        return tqdm(
            desc=name,
            initial=initial,
            total=total,
            unit="B",
            unit_scale=True,
            dynamic_ncols=True,
            leave=not watched,
            file=self.stream,
            **({} if watched else unwatched),
        )
