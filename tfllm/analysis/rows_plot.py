"""Figures of a text's rows: how long texts are, and how full rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tfllm.analysis.errors import AnalysisError

_MOST_BARS = 50


def plot_lengths(
    lengths: Mapping[str, np.ndarray], *, seq_len: int, filled: float, title: str = "Lengths"
) -> Figure:
    """Draws how many texts have how many tokens, a panel a side.

    Args:
        lengths: The tokens of each text, int [N], by what the side is called, such as `source`.
        seq_len: Tokens that a text may have.
        filled: Share of all rows' places that hold tokens, as they lie on disk.
        title: What stands above.

    Returns:
        The figure.

    Raises:
        AnalysisError: when there is no text.
    """
    if not lengths or not all(len(each) for each in lengths.values()):
        raise AnalysisError("there is no text whose length could be drawn; prepare some rows first")
    figure = Figure(figsize=(4.5 + 3.0 * (len(lengths) - 1), 3.4), layout="constrained")
    grid = figure.subplots(1, len(lengths), squeeze=False)[0]
    for ax, (side, tokens) in zip(grid, lengths.items(), strict=True):
        _draw(ax, tokens, seq_len)
        ax.set_xlabel(f"tokens of a {side}")
    grid[0].set_ylabel("how many")
    figure.suptitle(f"{title}; rows are filled to {filled:.0%}", fontsize=11)
    return figure


def _draw(ax: Axes, tokens: np.ndarray, seq_len: int) -> None:
    longest = int(tokens.max())
    width = max(1, -(-longest // _MOST_BARS))  # whole tokens, so that no bar holds more lengths than another
    edges = [place + 0.5 for place in range(0, longest + 2 * width, width)]
    ax.hist(tokens, bins=edges, color="#4477aa")
    median, most = (float(np.percentile(tokens, share)) for share in (50, 95))
    ax.axvline(median, color="black", linestyle="-", linewidth=1.2, label=f"half have at most {median:.0f}")
    ax.axvline(most, color="black", linestyle="--", linewidth=1.2, label=f"95% have at most {most:.0f}")
    if longest > 0.8 * seq_len:
        ax.axvline(seq_len, color="black", linestyle=":", linewidth=1.2, label=f"room for {seq_len}")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y", alpha=0.3)
    ax.set_axisbelow(True)
    ax.legend(fontsize=8)
