"""Rows of several stores: in training drawn in exact proportions, in evaluation one store after another."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from tfllm.data.errors import DataError
from tfllm.data.layout import RowLayout
from tfllm.data.sources.source import settings_digest
from tfllm.data.store import RowStore

LONGEST_PERIOD = 100_000  # rows; weights of up to five decimals that add up to 1 need no more


@dataclass(frozen=True)
class RowMixture:
    """Several stores and the proportions in which training draws from them.

    Attributes:
        stores: The components.
        weights: A positive number each; only their ratios matter.

    Raises:
        DataError: The numbers differ, a weight is not positive, or the stores' rows are not alike.
    """

    stores: tuple[RowStore, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.stores or len(self.stores) != len(self.weights):
            raise DataError(
                f"a mixture of {len(self.stores)} sources has {len(self.weights)} weights; give each one"
            )
        whole_weights(self.weights)
        if len({(store.seq_len, store.packing, store.layout) for store in self.stores}) > 1:
            raise DataError(
                "the stores of a mixture must have one seq_len, packing and tokenizer; prepare them alike"
            )

    @property
    def seq_len(self) -> int:
        """Tokens in a row."""
        return self.stores[0].seq_len

    @property
    def layout(self) -> RowLayout:
        """What a row holds."""
        return self.stores[0].layout

    @property
    def packing(self) -> bool:
        """Whether rows hold several documents."""
        return self.stores[0].packing

    @property
    def path(self) -> str:
        """Where the rows lie, in words."""
        return ", ".join(str(store.path) for store in self.stores)

    @property
    def num_rows(self) -> int:
        """Rows in all stores."""
        return sum(store.num_rows for store in self.stores)

    @property
    def num_documents(self) -> int:
        """Documents in all stores."""
        return sum(store.num_documents for store in self.stores)

    @property
    def num_tokens(self) -> int:
        """Targets with weight 1 in all stores."""
        return sum(store.num_tokens for store in self.stores)

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the documents in all stores."""
        return sum(store.num_bytes for store in self.stores)

    @property
    def identity(self) -> str:
        """Equal identities give equal batches."""
        return settings_digest(
            stores=[store.identity for store in self.stores], weights=whole_weights(self.weights)
        )

    @property
    def content(self) -> str:
        """Equal contents give equal batches, whatever text the rows were made from."""
        return settings_digest(
            stores=[store.content for store in self.stores], weights=whole_weights(self.weights)
        )

    @property
    def summary(self) -> str:
        """The numbers, in words: a part for each component."""
        total = sum(self.weights)
        parts = zip(self.stores, self.weights, strict=True)
        return "; ".join(f"{weight / total:.1%} from {store.summary}" for store, weight in parts)

    def verify(self, progress: Callable[[int], None] | None = None) -> None:
        """Compare all rows with their checksums (see `RowStore.verify`)."""
        for store in self.stores:
            store.verify(progress)


@dataclass(frozen=True)
class Pattern:
    """One period of the order in which components take turns.

    Attributes:
        sources: int32 [P], whose turn it is at each place.
        ranks: int64 [P], how many turns the same component had before in the period.
        counts: int64 [K], each component's turns in a period.
    """

    sources: np.ndarray
    ranks: np.ndarray
    counts: np.ndarray


def whole_weights(weights: Sequence[float]) -> tuple[int, ...]:
    """Return whole numbers in the proportions of the weights, as small as possible.

    Weights are taken as the decimals that they are written as. Where their period would be longer than
    `LONGEST_PERIOD` rows, they are rounded to that many parts of their sum.

    Raises:
        DataError: A weight is not a positive number, or rounds to nothing.
    """
    for weight in weights:
        if not (math.isfinite(weight) and weight > 0):
            raise DataError(f"weight={weight} must be a positive number; leave a source of no weight out")
    exact = [Fraction(str(weight)) for weight in weights]
    scale = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    whole = [number // math.gcd(*whole) for number in whole]
    if sum(whole) > LONGEST_PERIOD:
        whole = _rounded([weight / sum(exact) * LONGEST_PERIOD for weight in exact])
    if 0 in whole:
        raise DataError(
            f"weight={weights[whole.index(0)]} is less than a part in {LONGEST_PERIOD:,} of the sum of the "
            "weights; raise it, or leave the source out"
        )
    return tuple(whole)


def _rounded(parts: list[Fraction]) -> list[int]:
    """Round by the largest remainders, so that the sum stays."""
    whole = [int(part) for part in parts]
    by_remainder = sorted(range(len(parts)), key=lambda k: whole[k] - parts[k])
    for k in by_remainder[: round(sum(parts)) - sum(whole)]:
        whole[k] += 1
    return whole


@functools.lru_cache(maxsize=8)
def turns(counts: tuple[int, ...]) -> Pattern:
    """Return an order in which each component has had its share, to less than one row, at every place.

    Of the first g rows component k has g * counts[k] / sum(counts), give or take less than 1, for every g of
    the endless repetition. Paper: Tijdeman 1980, "The chairman assignment problem": among those whose share
    is 1 / (2K - 2) rows or more ahead of what they had, the next is the one who would first be a whole row
    short.

    Args:
        counts: Turns of each component in a period.
    """
    period, slack = sum(counts), max(1, 2 * len(counts) - 2)
    had = [0] * len(counts)
    sources, ranks = np.zeros(period, np.int32), np.zeros(period, np.int64)
    for place in range(period):
        # What each is owed after this place, in parts of a row: 1 / (slack * period).
        owed = [slack * ((place + 1) * count - period * had[k]) for k, count in enumerate(counts)]
        due = [k for k, parts in enumerate(owed) if parts >= period]
        turn = min(due, key=lambda k: ((slack - 1) * period - owed[k]) / counts[k])
        sources[place], ranks[place] = turn, had[turn]
        had[turn] += 1
    return Pattern(sources, ranks, np.array(counts, np.int64))


def pattern_of(rows: RowStore | RowMixture) -> Pattern:
    """Return the order of turns; a single store always has its turn."""
    return turns(whole_weights(rows.weights) if isinstance(rows, RowMixture) else (1,))


def stores_of(rows: RowStore | RowMixture) -> tuple[RowStore, ...]:
    """Return the components; a single store is the only one."""
    return rows.stores if isinstance(rows, RowMixture) else (rows,)
