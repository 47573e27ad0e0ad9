"""Text that is held out and stands in the training text too."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator

from tfllm.config import ExperimentConfig
from tfllm.data.conversation import first_text
from tfllm.data.sources import Source
from tfllm.experiment.source import make_source


def overlaps(config: ExperimentConfig, source: Source) -> Iterator[str]:
    """Yields a line for each side that has text of its own of which some is trained on.

    What is held out of the training text falls on one side, whatever it is: of that nothing is to be told.

    Args:
        config: The experiment.
        source: Its training text.
    """
    column = config.task.text_columns[0]
    sides: dict[str, Counter[bytes]] = {}
    for side in ("validation", "test"):
        section = getattr(config.data, side)
        if section is not None:
            records = make_source(section, f"data.{side}").records()
            sides[side] = Counter(_digest(first_text(record, column)) for record in records)
    if not sides:
        return
    trained = {_digest(first_text(record, column)) for record in source.records()}
    for side, counts in sides.items():
        both = sum(count for text, count in counts.items() if text in trained)
        if both:
            yield (
                f"{side}: of {both} of {counts.total()} records the {column} stands in the training text too, so"
                " figures are better than on text that is new"
            )


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
