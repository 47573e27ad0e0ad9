"""Records of a text, or two, and a label → segments of a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfllm.data.errors import DataError
from tfllm.data.examples import Example
from tfllm.data.record import TEXT, Record
from tfllm.tasks.examples.labels import Labels, weight_of
from tfllm.tasks.examples.text_segments import TextSegments

TEXT_PAIR = "text_pair"


class LabelledText(TextSegments):
    """Tokenises a text or a pair, framed as the tokenizer frames them, and cut to `seq_len` tokens at the end.

    Of a pair the longer text is cut first. A row holds `token_ids`, `token_type_ids` (of pairs: 1 for the second text
    and what stands behind it) and `segment_ids`, and for each segment what its
    labels are, `weights` and `example_ids`.

    Args:
        tokenizer: Anything with `encode_batch`, `prefix_ids`, `separator_ids`, `suffix_ids`, `pad_id` and `vocab_size`.
        seq_len: Tokens of an example, at most.
        packing: Several examples to a row.
        labels: What the labels are.
        pairs: Read two texts.
        token_types: The model tells token types apart; else rows have none.

    Raises:
        DataError: The tokens around the texts leave no room for them, or nothing tells two texts apart.
    """

    kind = "labelled_text 1"

    def __init__(
        self,
        tokenizer: Any,
        *,
        seq_len: int,
        packing: bool,
        labels: Labels,
        pairs: bool = False,
        token_types: bool = True,
    ):
        self.labels, self.pairs, self.token_types = labels, pairs, token_types or not pairs
        if pairs and not token_types and not tokenizer.separator_ids:
            raise DataError(
                "task.pairs=true: the model has no types of tokens, and the tokenizer nothing that stands between two"
                " texts; take a model with model.num_token_types=2, or one like RoBERTa's"
            )
        between = [tokenizer.separator_ids] if pairs else []
        super().__init__(
            tokenizer,
            seq_len=seq_len,
            packing=packing,
            around=(tokenizer.prefix_ids, *between, tokenizer.suffix_ids),
            token_types=pairs and token_types,
            of_segments=labels.features,
        )
        self.columns = (TEXT, TEXT_PAIR) if pairs else (TEXT,)
        self.room = seq_len - sum(map(len, self.around))
        if self.room < len(self.columns):
            raise DataError(
                f"data.seq_len={seq_len} leaves no room beside the {seq_len - self.room} tokens around a text; raise it"
            )

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the examples depend on, beside records and tokenizer."""
        types = {} if self.token_types else {"token_types": False}
        return {**super().settings, **types, **self.labels.settings}

    def keeps(self, record: Record) -> bool:
        """Return whether no text is blank."""
        return all(record.text(column).strip() for column in self.columns)

    def examples(self, records: Sequence[Record], numbers: Sequence[int]) -> Iterator[Example]:
        """Yield each record."""
        texts = [[record.text(column) for column in self.columns] for record in records]
        encoded = iter(self.tokenizer.encode_batch([text for each in texts for text in each]))
        for number, record, each in zip(numbers, records, texts, strict=True):
            parts = [next(encoded) for _ in each]
            ids, types = self.framed(parts)
            is_cut = sum(map(len, parts)) > self.room
            arrays = {"token_ids": ids, "token_type_ids": types, **self.labelled(record)}
            size = sum(len(text.encode()) for text in each)
            yield self.example(number, arrays, weight=weight_of(record), num_bytes=size, is_cut=is_cut)

    def labelled(self, record: Record) -> dict[str, np.ndarray]:
        """Return what a row holds of a record's label, [1] each."""
        values = self.labels.of(record)
        return {
            feature.name: np.array([values[feature.name]], feature.dtype) for feature in self.labels.features
        }

    def framed(self, parts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of an example, int32 [n], and which of its texts each belongs to.

        Args:
            parts: The ids of the text, or of both.
        """
        kept = _shares([len(part) for part in parts], self.room)
        ids, types = list(self.around[0]), [0] * len(self.around[0])
        for place, (part, count, behind) in enumerate(zip(parts, kept, self.around[1:], strict=True)):
            ids += [*part[:count], *behind]
            types += [place] * (count + len(behind))
        return np.array(ids, np.int32), np.array(types, np.int32)


def _shares(sizes: Sequence[int], room: int) -> list[int]:
    """How much is kept of each text: the longer loses first; an odd token goes to the first."""
    if len(sizes) == 1:
        return [min(sizes[0], room)]
    halves = ((room + 1) // 2, room // 2)
    pairs = zip(sizes, halves, reversed(sizes), strict=True)
    return [min(size, max(half, room - other)) for size, half, other in pairs]
