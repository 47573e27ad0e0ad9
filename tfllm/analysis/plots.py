"""Figures of attention and training; each function returns a Matplotlib `Figure`.

Figures are made without pyplot, so nothing stays open behind them: show one at the end of a notebook cell
(after `%matplotlib inline`), or write it with `figure.savefig("attention.png")`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tfllm.analysis.attention import AttentionMaps
from tfllm.analysis.errors import AnalysisError
from tfllm.analysis.label_font import FONT, drawable

_LABEL_SIZE = 8  # points
_LABEL_PITCH = 0.14  # inches from one token label to the next: 10 points, so that 8-point type has air
_LABEL_LENGTH = 14  # characters; a longer label would take more room than its panel
_LETTER = 0.07  # inches, the mean width of a character of a label
_PAGE_WIDTH = 13.0  # inches; panels shrink to keep a grid within it
_MOST_PANELS = 144  # 12 layers of 12 heads; beyond that nothing can be read

# What each summary of a head is called, and what its colour means.
_SUMMARIES = {
    "mean_distance": ("How far each head looks", "mean distance (tokens)"),
    "entropy": ("How widely each head looks", "mean entropy (nats)"),
}


def plot_loss(entries: Iterable[Mapping[str, Any]], *, ax: Axes | None = None) -> Figure:
    """Draws training and validation loss against the step, as logged: nothing is smoothed.

    Args:
        entries: The lines of a `metrics.jsonl`. A training entry is the mean since the entry before; one
            without a number (the loss was not finite) leaves a gap, and the legend counts it.
        ax: Where to draw; None makes a new figure.

    Returns:
        The figure.

    Raises:
        AnalysisError: when there is no loss to draw.
    """
    entries = [entry for entry in entries if "loss" in entry]
    if not entries:
        raise AnalysisError(
            "the entries hold no loss; give the metrics.jsonl of a run that has logged a step"
        )
    if ax is None:
        ax = Figure(figsize=(7.0, 4.0), layout="constrained").add_subplot()
    for split in sorted({entry["split"] for entry in entries}):  # the same colours whichever came first
        _draw_split(ax, split, [entry for entry in entries if entry["split"] == split])
    ax.set(xlabel="step", ylabel="loss (nats/token)", title="Loss")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    ax.grid(alpha=0.3)
    ax.legend()
    return _figure_of(ax)


def plot_attention(
    maps: AttentionMaps,
    *,
    layers: int | str | Sequence[int | str] | None = None,
    heads: int | Sequence[int] | None = None,
) -> Figure:
    """Draws a grid of heads: a row a layer, a column a head, with one colour scale for all.

    In each panel a row is a query and its columns are the keys it takes from. Where there are more tokens
    than room, every k-th is labelled and the axes say so. A causal model cannot look ahead: its keys after
    the query are left grey. Colours follow the square root of the score, so that small scores of long texts
    can be told apart; the few highest scores, one in 200, share the last colour.

    Args:
        maps: From `attention_maps`.
        layers: Names or numbers of the layers to show; None shows all that were captured.
        heads: Numbers of the heads to show; None shows all.

    Returns:
        The figure.

    Raises:
        AnalysisError: when a layer or head is not there, or there are too many for one figure.
    """
    rows = _chosen(layers, maps.layer_index, len(maps.layers), "layers")
    columns = _chosen(heads, maps.head_index, maps.num_heads, "heads")
    if len(rows) * len(columns) > _MOST_PANELS:
        raise AnalysisError(
            f"{len(rows)} layers of {len(columns)} heads are more than the {_MOST_PANELS} panels that can be"
            " read in one figure; choose some with layers= and heads="
        )
    shown = _reachable(maps.scores[np.ix_(rows, columns)])
    top = float(np.percentile(shown.compressed(), 99.5, method="higher"))
    norm = PowerNorm(0.5, vmin=0.0, vmax=top)
    labels = [_short(drawable(label)) for label in maps.labels]
    side = _panel_side(len(labels), len(columns))
    every = math.ceil(len(labels) * _LABEL_PITCH / side)
    figure = _grid_figure(side, len(rows), len(columns), labels)
    grid = figure.subplots(len(rows), len(columns), sharex=True, sharey=True, squeeze=False)
    for row, column in np.ndindex(grid.shape):
        ax = grid[row, column]
        image = ax.imshow(shown[row, column], cmap="viridis", norm=norm)
        ax.set_title(f"{maps.layers[rows[row]]} head {columns[column]}", fontsize=9)
        ax.set_facecolor("0.93")
        _label_tokens(ax, labels, every)
        ax.label_outer()
    thinned = "" if every == 1 else f" (1 in {every} labelled)"
    figure.supxlabel(f"key: the token attended to{thinned}", fontsize=9)
    figure.supylabel(f"query: the token attending{thinned}", fontsize=9)
    bar: dict[str, Any] = {"shrink": min(1.0, 5.0 / (side * len(rows)))}
    bar["extend"] = "max" if shown.max() > top else "neither"
    figure.colorbar(image, ax=grid, label="attention score", fraction=0.05, aspect=25, **bar)
    return figure


def plot_head_summary(maps: AttentionMaps, *, value: str = "mean_distance") -> Figure:
    """Draws one number a head: a row a layer, a column a head.

    Args:
        maps: From `attention_maps`.
        value: mean_distance or entropy; see the methods of `AttentionMaps`.

    Returns:
        The figure.

    Raises:
        AnalysisError: when `value` is neither.
    """
    if value not in _SUMMARIES:
        raise AnalysisError(f"value={value!r} must be one of {', '.join(_SUMMARIES)}")
    title, meaning = _SUMMARIES[value]
    numbers = getattr(maps, value)()
    num_layers, num_heads = numbers.shape
    figure = Figure(
        figsize=(max(4.5, 0.6 * num_heads + 2.2), max(2.8, 0.4 * num_layers + 1.3)), layout="constrained"
    )
    ax = figure.add_subplot()
    image = ax.imshow(numbers, cmap="viridis", aspect="auto")
    ax.set(title=title, xlabel="head", ylabel="layer", xticks=range(num_heads))
    ax.set_yticks(range(num_layers), maps.layers)
    middle = (numbers.min() + numbers.max()) / 2
    for (layer, head), number in np.ndenumerate(numbers):
        colour = "white" if number <= middle else "black"
        ax.text(head, layer, f"{number:.2f}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, ax=ax, label=meaning)
    return figure


def _draw_split(ax: Axes, split: str, entries: Sequence[Mapping[str, Any]]) -> None:
    losses = np.array([math.nan if entry["loss"] is None else entry["loss"] for entry in entries])
    missing = int(np.isnan(losses).sum())
    label = split if not missing else f"{split} ({missing} not finite)"
    # Validation is rare, so its points show; a lone training point would be invisible as a line.
    marker = "o" if split != "train" or len(entries) == 1 else None
    ax.plot(
        [entry["step"] for entry in entries], losses, label=label, marker=marker, markersize=4, linewidth=1.5
    )


def _reachable(scores: np.ndarray) -> np.ma.MaskedArray:
    """Masks the keys after the query of a causal model: out of reach, not merely unattended."""
    ahead = np.triu(np.ones(scores.shape[-2:], bool), k=1)
    causal = not scores[..., ahead].any()
    return np.ma.masked_array(scores, np.broadcast_to(ahead & causal, scores.shape))


def _grid_figure(side: float, num_rows: int, num_columns: int, labels: Sequence[str]) -> Figure:
    """An empty figure with room for the panels, and around them for labels, titles and the colour bar."""
    longest = max(map(len, labels)) * _LETTER
    size = (side * num_columns + longest + 1.8, (side + 0.3) * num_rows + longest + 0.5)
    return Figure(figsize=size, layout="compressed")  # the layout for panels that must stay square


def _label_tokens(ax: Axes, labels: Sequence[str], every: int) -> None:
    places = range(0, len(labels), every)
    # Labels are what the text says: a "$" in it starts no formula.
    style: dict[str, Any] = {"fontsize": _LABEL_SIZE, "fontfamily": FONT, "parse_math": False}
    ax.set_xticks(places, labels[::every], rotation=90, **style)
    ax.set_yticks(places, labels[::every], **style)
    ax.tick_params(length=2)


def _short(label: str) -> str:
    return label if len(label) <= _LABEL_LENGTH else label[: _LABEL_LENGTH - 1] + "…"


def _panel_side(num_tokens: int, num_columns: int) -> float:
    """Inches: enough to label every token, where the page has room for it."""
    room = _PAGE_WIDTH / num_columns
    smallest, largest = max(1.6, min(2.6, room)), max(1.6, min(8.0, room))  # 1.6: a title still fits
    return min(max(num_tokens * _LABEL_PITCH, smallest), largest)


def _chosen(wanted: Any, index: Any, count: int, name: str) -> list[int]:
    if wanted is None:
        return list(range(count))
    if isinstance(wanted, str | int | np.integer):
        wanted = [wanted]
    if not len(wanted):
        raise AnalysisError(f"{name}={wanted!r} chooses nothing to draw; name at least one, or leave it out")
    return [index(one) for one in wanted]


def _figure_of(ax: Axes) -> Figure:
    return cast(Figure, ax.figure)
