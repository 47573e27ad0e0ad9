"""The pictures of a run: how long its texts are, and which classes its model takes for which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.data.mixture import RowMixture, stores_of
from tfllm.data.store import RowStore
from tfllm.evaluation.predictions import Prediction

_MOST_ROWS = 20_000  # of a store that are counted
_SIDES = {"": "text", "encoder_": "source", "decoder_": "target"}


def draw_lengths(path: Path, rows: RowStore | RowMixture, *, notify: Callable[[str], None]) -> None:
    """Draws how long the texts are in rows; what goes wrong is told, and costs nothing.

    Args:
        path: The PNG.
        rows: The rows to train on.
        notify: Receives what went wrong.
    """
    from tfllm.analysis.rows_plot import plot_lengths

    def drawn() -> Any:
        lengths, filled = lengths_of(rows)
        return plot_lengths(lengths, seq_len=rows.seq_len, filled=filled, title="Texts to train on")

    _write(path, drawn, notify)


def draw_confusion(
    path: Path, task: Any, predictions: Sequence[Prediction], side: str, *, notify: Callable[[str], None]
) -> None:
    """Draws which classes are taken for which, where the task tells one class of each example.

    Args:
        path: The PNG.
        task: The task.
        predictions: What was said of each example.
        side: Of what: validation or test.
        notify: Receives what went wrong.
    """
    if not hasattr(task, "confusion") or not predictions:
        return
    from tfllm.analysis.confusion_plot import plot_confusion

    def drawn() -> Any:
        counts = task.confusion(predictions)
        right = np.trace(counts) / max(1, counts.sum())
        title = f"{len(predictions)} examples of {side}, {right:.1%} right"
        return plot_confusion(counts, task.class_names, title=title)

    _write(path, drawn, notify)


def lengths_of(rows: RowStore | RowMixture) -> tuple[dict[str, np.ndarray], float]:
    """Count the tokens of each text, int64 [N] by side, and the share of all places that hold tokens."""
    found: dict[str, list[np.ndarray]] = {}
    places = tokens = 0
    for store in stores_of(rows):
        read = store.read(range(min(store.num_rows, _MOST_ROWS)))
        for side, _ in store.layout.sides:
            segments = read[f"{side}segment_ids"]
            most = int(segments.max(initial=0)) + 1
            at = np.arange(len(segments))[:, None] * most + segments
            counts = np.bincount(at.ravel(), minlength=len(segments) * most).reshape(len(segments), most)
            found.setdefault(_SIDES.get(side, side), []).append(counts[:, 1:][counts[:, 1:] > 0])
            places, tokens = places + segments.size, tokens + int((segments > 0).sum())
    return {side: np.concatenate(each) for side, each in found.items()}, tokens / max(1, places)


def _write(path: Path, drawn: Callable[[], Any], notify: Callable[[str], None]) -> None:
    part = path.with_suffix(".part.png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn().savefig(part, dpi=150)
        part.replace(path)
    except Exception as error:  # a picture never costs a training
        notify(f"{path} was not drawn ({error})")
