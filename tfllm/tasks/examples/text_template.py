"""A text, or two, in a template → ids; where they are too many, the end of the longer text is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfllm.data.errors import DataError
from tfllm.tasks.examples.shares import shares


class TextTemplate:
    """Tokenises texts together with what stands around them, for pieces of both may join.

    What is too long loses ids of its texts: those that stand neither at the beginning, as of what stands before alone,
    nor at the end, as of what stands behind alone.

    Args:
        tokenizer: Anything with `encode` and `encode_batch`.
        pieces: What stands before the first text, between two, and behind the last.
        room: Ids that there may be.

    Raises:
        DataError: The template leaves no room for its texts.
    """

    def __init__(self, tokenizer: Any, pieces: Sequence[str], *, room: int):
        self.tokenizer, self.pieces, self.room = tokenizer, tuple(pieces), room
        self.begin_ids, self.end_ids = tokenizer.encode(self.pieces[0]), tokenizer.encode(self.pieces[-1])
        around = len(tokenizer.encode("".join(self.pieces)))
        if room < around + len(self.pieces) - 1:
            raise DataError(
                f"task.template takes {around} tokens of the {room} that data.seq_len leaves for a text; shorten it, or"
                " raise data.seq_len"
            )

    def batch(self, texts: Sequence[Sequence[str]]) -> list[tuple[list[int], bool]]:
        """Return the ids of each, and whether some of its text is left out.

        Args:
            texts: As many texts of each as there are places.
        """
        wholes = self.tokenizer.encode_batch([self._text(each) for each in texts])
        made = []
        for each, whole in zip(texts, wholes, strict=True):
            ids = [int(i) for i in whole]
            is_cut = len(ids) > self.room
            made.append((self._cut(each, ids) if is_cut else ids, is_cut))
        return made

    def _text(self, texts: Sequence[str]) -> str:
        ends = (text + piece for text, piece in zip(texts, self.pieces[1:], strict=True))
        return self.pieces[0] + "".join(ends)

    def _cut(self, texts: Sequence[str], ids: Sequence[int]) -> list[int]:
        last = len(ids) - _common(ids[::-1], self.end_ids[::-1])
        borders = [_common(ids, self.begin_ids)]
        if len(texts) == 2:
            before = self.pieces[0] + texts[0]
            borders += [
                _common(ids, self.tokenizer.encode(text)) for text in (before, before + self.pieces[1])
            ]
        borders.append(last)
        for index in range(len(borders) - 1):
            borders[index + 1] = max(borders[index], borders[index + 1])
        spans = list(zip(borders[::2], borders[1::2], strict=True))  # of the texts
        sizes = [end - start for start, end in spans]
        kept = shares(sizes, max(0, self.room - (len(ids) - sum(sizes))))
        found: list[int] = []
        at = 0
        for (start, end), count in zip(spans, kept, strict=True):
            found += ids[at : start + count]
            at = end
        return [*found, *ids[at:]][: self.room]


def _common(ids: Sequence[int], others: Sequence[int]) -> int:
    """How many ids both begin with."""
    count = 0
    for one, other in zip(ids, others, strict=False):
        if one != other:
            break
        count += 1
    return count
