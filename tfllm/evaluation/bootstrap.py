"""How far a metric could be off, had other examples been held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from tfllm.evaluation.predictions import Prediction

Metrics = Callable[[Sequence[Prediction]], Mapping[str, float]]


def intervals(
    metrics: Metrics, predictions: Sequence[Prediction], names: Sequence[str], *, samples: int, seed: int = 0
) -> dict[str, list[float]]:
    """The 95% intervals of metrics: their 2.5th and 97.5th percentiles over samples of the examples (Efron 1979).

    Args:
        metrics: Computes metrics of predictions.
        predictions: Of every example; a sample draws as many, each perhaps several times.
        names: The metrics to tell of.
        samples: Samples to draw.
        seed: The same seed draws the same.

    Returns:
        Least and most, by name.
    """
    drawn = [metrics([predictions[i] for i in chosen]) for chosen in _draws(len(predictions), samples, seed)]
    return {name: _middle([each[name] for each in drawn]) for name in names}


def differences(
    one: tuple[Metrics, Sequence[Prediction]],
    other: tuple[Metrics, Sequence[Prediction]],
    names: Sequence[str],
    *,
    samples: int,
    seed: int = 0,
) -> dict[str, list[float]]:
    """The 95% intervals of how much a metric of one model exceeds that of another, both drawing the same examples.

    Args:
        one: Computes metrics, and what the model says of every example.
        other: The same of the other, its examples in the same order.
        names: The metrics to tell of.
        samples: Samples to draw.
        seed: The same seed draws the same.

    Returns:
        Least and most, by name.
    """
    found: dict[str, list[float]] = {name: [] for name in names}
    for chosen in _draws(len(one[1]), samples, seed):
        ours, theirs = (metrics([said[i] for i in chosen]) for metrics, said in (one, other))
        for name in names:
            found[name].append(ours[name] - theirs[name])
    return {name: _middle(values) for name, values in found.items()}


def _draws(count: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    return (generator.integers(count, size=count) for _ in range(samples))


def _middle(values: Sequence[float]) -> list[float]:
    return [float(x) for x in np.percentile(values, [2.5, 97.5])]
