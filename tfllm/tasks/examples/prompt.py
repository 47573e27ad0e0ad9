"""A source as a model reads it: in its template, framed, and cut where it is too long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfllm.tokenizers.repair import repair_text

SOURCE, TARGET = "source", "target"


class Prompt:
    """Makes the ids that a target is written to.

    Args:
        tokenizer: Anything with `encode_batch`, `encode` and `encode_with_offsets`.
        before: What stands before a source.
        behind: What stands behind it.
        prefix: Ids that begin every prompt.
        suffix: Ids that end it.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        before: str = "",
        behind: str = "",
        prefix: Sequence[int] = (),
        suffix: Sequence[int] = (),
    ):
        self.tokenizer, self.before, self.behind = tokenizer, before, behind
        self.prefix, self.suffix = tuple(map(int, prefix)), tuple(map(int, suffix))

    @property
    def settings(self) -> list[Any]:
        """What prompts depend on, beside the tokenizer; JSON values."""
        return [self.before, self.behind, self.prefix, self.suffix]

    @property
    def gap(self) -> str:
        """What stands between a prompt and a target that the same text goes on with."""
        return "" if self.behind[-1:].isspace() else " "

    def text(self, source: str) -> str:
        """Return a source in its template."""
        return f"{self.before}{source}{self.behind}"

    def batch(self, sources: Sequence[str]) -> list[list[int]]:
        """Return the ids of each prompt, however many."""
        encoded = self.tokenizer.encode_batch([self.text(source) for source in sources])
        return [[*self.prefix, *map(int, ids), *self.suffix] for ids in encoded]

    def cut(self, source: str, room: int) -> list[int] | None:
        """Return the ids of a prompt of which the end of the source is left out, so that it fits.

        Args:
            source: The source.
            room: Ids that there may be.

        Returns:
            The ids; None where not even the first token of the source fits.
        """
        source = repair_text(source)
        ids, offsets = self.tokenizer.encode_with_offsets(source, special=False)
        around = len(self.prefix) + len(self.suffix)
        keep = min(len(ids), room - around - len(self.tokenizer.encode(self.before + self.behind)))
        while keep > 0:
            # Texts are cut and not ids: pieces of a word may join what stands behind it otherwise.
            shorter = source[: int(offsets[keep - 1][1])]
            [found] = self.batch([shorter])
            if len(found) <= room and shorter:
                return found
            keep -= max(1, len(found) - room)
        return None
