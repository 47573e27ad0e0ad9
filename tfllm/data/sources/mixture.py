"""Several sources as one text: for what looks at all of it, such as the training of a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tfllm.data.errors import DataError
from tfllm.data.record import Record
from tfllm.data.sources.source import Source, settings_digest


class MixtureSource(Source):
    """Several sources, one after another. In which proportions rows are drawn is the rows' matter.

    Args:
        sources: The components.
        weights: A number each.

    Raises:
        DataError: There is no source, or the numbers differ.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float]):
        if not sources or len(sources) != len(weights):
            raise DataError(
                f"a mixture of {len(sources)} sources has {len(weights)} weights; give at least one source, "
                "and a weight each"
            )
        self.sources = list(sources)
        self.files = [file for source in sources for file in source.files]
        self.weights = list(weights)

    def records(self) -> Iterator[Record]:
        """Yield each component's records."""
        for source in self.sources:
            yield from source.records()

    def describe(self) -> str:
        """Return the components, in words."""
        parts = zip(self.weights, self.sources, strict=True)
        return "mixture of " + ", ".join(f"{weight:g} {source.describe()}" for weight, source in parts)

    def fingerprint(self) -> str:
        """Return a digest of the components and the weights."""
        return settings_digest(
            type="mixture",
            sources=[source.fingerprint() for source in self.sources],
            weights=self.weights,
        )
