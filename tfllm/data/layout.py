"""What a row on disk holds: the features that a task declares, side by side in numbers of one size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Rows = dict[str, np.ndarray]  # [N, …], a row each, by feature


@dataclass(frozen=True)
class Feature:
    """One of the things that a row holds.

    Attributes:
        name: Its name in a batch. What belongs to the tokens of a side begins with the side's name.
        side: The side whose every token has a value of it; None: every segment has one.
        fill: The value where there is no token, or no segment.
        dtype: "int32" or "float32", of its tensor.
        limit: Values are below it. None: any that 32 bits hold.
    """

    name: str
    side: str | None
    fill: float = 0
    dtype: str = "int32"
    limit: int | None = None


@dataclass(frozen=True)
class RowLayout:
    """The features of a row, in the order they lie on disk.

    Every row has the same size: of each side as many tokens as `sides` says, and values for so many segments. A
    segment is one example. The feature `<side>segment_ids` says which tokens of a side are the first segment's, the
    second's, … from 1; 0 is padding, and comes last.

    Attributes:
        sides: Name and tokens of each side: `(("", 256),)`, or `(("encoder_", 96), ("decoder_", 64))`.
        features: What is held.
        segments: Segments in a row, at most.
    """

    sides: tuple[tuple[str, int], ...]
    features: tuple[Feature, ...]
    segments: int = 0

    @property
    def dtype(self) -> str:
        """Of a number on disk: "uint16" where every value fits, else "int32", which floats are kept in bit for bit."""
        limits = [feature.limit for feature in self.features]
        small = all(limit is not None and limit <= 1 << 16 for limit in limits)
        return "uint16" if small else "int32"

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return sum(self.size(feature) for feature in self.features)

    def size(self, feature: Feature) -> int:
        """Numbers of one feature."""
        return self.segments if feature.side is None else dict(self.sides)[feature.side]

    def places(self) -> Iterator[tuple[Feature, int, int]]:
        """Yield each feature, and where in a row it begins and ends."""
        start = 0
        for feature in self.features:
            yield feature, start, start + self.size(feature)
            start += self.size(feature)

    def start(self, name: str) -> int:
        """Return where in a row a feature begins."""
        return next(start for feature, start, _ in self.places() if feature.name == name)

    def empty(self, num_rows: int) -> Rows:
        """Return rows that hold nothing."""
        return {
            feature.name: np.full([num_rows, self.size(feature)], feature.fill, feature.dtype)
            for feature in self.features
        }

    def packed(self, rows: Rows) -> np.ndarray:
        """Return rows as they lie on disk, `dtype` [N, width].

        Raises:
            ValueError: A value is not below its feature's limit; arguments are the feature and the value.
        """
        parts = []
        for feature in self.features:
            values = rows[feature.name]
            largest = int(values.max(initial=0)) if feature.limit is not None else 0
            if feature.limit is not None and largest >= feature.limit:
                raise ValueError(feature, largest)
            parts.append(values.view("int32") if feature.dtype == "float32" else values)
        return np.concatenate(parts, axis=1).astype(self.dtype)

    def unpacked(self, numbers: np.ndarray) -> Rows:
        """Return what `packed` was given, int32 or float32."""
        numbers = numbers.astype(np.int32)
        return {
            feature.name: np.ascontiguousarray(numbers[:, start:stop]).view(feature.dtype)
            for feature, start, stop in self.places()
        }

    def as_mapping(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> RowLayout:
        """Read what `as_mapping` gave, back from JSON.

        Raises:
            TypeError, ValueError, KeyError: It says something else.
        """
        sides = tuple((str(name), int(length)) for name, length in mapping["sides"])
        features = tuple(Feature(**feature) for feature in mapping["features"])
        return cls(sides, features, int(mapping["segments"]))


def next_token_layout(*, seq_len: int, vocab_limit: int, pad_id: int) -> RowLayout:
    """Return the rows of next-token prediction: `token_ids`, `targets` and `segment_ids` of one side.

    Args:
        seq_len: Tokens in a row.
        vocab_limit: Ids are below it.
        pad_id: The id in padded places.
    """
    ids, targets = (Feature(name, "", fill=pad_id, limit=vocab_limit) for name in ("token_ids", "targets"))
    return RowLayout((("", seq_len),), (ids, targets, Feature("segment_ids", "", limit=seq_len + 1)))
