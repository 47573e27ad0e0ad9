"""A figure of the classes that are taken for others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tfllm.analysis.errors import AnalysisError
from tfllm.analysis.label_font import FONT, drawable

_MOST_CLASSES = 40  # beyond that no number can be read
_NUMBERED = 25
_LONGEST = 24  # characters of a name


def plot_confusion(counts: np.ndarray, names: Sequence[str], *, title: str = "Confusion") -> Figure:
    """Draws which classes are taken for which: a row a class, a column what was said, a number how many.

    Colours are shares of a row, so that rare classes are seen too. Of many classes the most frequent are drawn.

    Args:
        counts: int [C, C], as `confusion_matrix` counts them.
        names: The classes.
        title: What stands above.

    Returns:
        The figure.

    Raises:
        AnalysisError: when there are not as many names as classes, or nothing was counted.
    """
    if counts.shape != (len(names), len(names)) or not counts.sum():
        raise AnalysisError(
            f"counts of shape {list(counts.shape)} must hold a row and a column for each of {len(names)} names, and"
            " something counted; give what confusion_matrix returned"
        )
    seen = counts.sum(axis=1) + counts.sum(axis=0)
    chosen = np.sort(np.argsort(-seen, kind="stable")[:_MOST_CLASSES])
    if len(chosen) < len(names):
        title = f"{title}; the {len(chosen)} most frequent of {len(names)} classes"
    shown = counts[np.ix_(chosen, chosen)]
    labels = [_short(drawable(names[at])) for at in chosen]
    side = max(2.2, 0.34 * len(chosen))
    margin = 0.085 * max(map(len, labels))
    figure = Figure(figsize=(side + margin + 1.9, side + margin + 1.0), layout="constrained")
    ax = figure.add_subplot()
    totals = counts[chosen].sum(axis=1, keepdims=True)
    shares = np.divide(shown, totals, out=np.zeros(shown.shape), where=totals > 0)
    image = ax.imshow(shares, cmap="cividis", vmin=0.0, vmax=1.0)
    style: dict[str, Any] = {"fontsize": 8, "fontfamily": FONT, "parse_math": False}
    ax.set_xticks(range(len(labels)), labels, rotation=90, **style)
    ax.set_yticks(range(len(labels)), labels, **style)
    ax.set(xlabel="said", ylabel="meant")
    ax.set_title(title, fontsize=10, parse_math=False)
    if len(chosen) <= _NUMBERED:
        for (row, column), count in np.ndenumerate(shown):
            if count:
                colour = "white" if shares[row, column] < 0.5 else "black"
                ax.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(image, ax=ax, label="share of the row", shrink=0.8)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
