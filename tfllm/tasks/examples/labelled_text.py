"""Records of a text, or two, and a label → segments of a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfllm.config.template import split_template
from tfllm.data.errors import DataError
from tfllm.data.examples import Example
from tfllm.data.record import TEXT, Record
from tfllm.tasks.examples.labels import Labels, weight_of
from tfllm.tasks.examples.shares import shares
from tfllm.tasks.examples.text_segments import TextSegments
from tfllm.tasks.examples.text_template import TextTemplate

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
        template: What stands around and between the texts, as `split_template` gives it; of a text in a template no
            token has another type.

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
        template: Sequence[str] | None = None,
    ):
        self.labels, self.pairs, self.token_types = labels, pairs, token_types or not pairs
        if pairs and template is None and not token_types and not tokenizer.separator_ids:
            raise DataError(
                "task.pairs=true: the model has no types of tokens, and the tokenizer nothing that stands between two"
                " texts; write task.template: '{text} / {text_pair}' in words of yours, or take a model with"
                " model.num_token_types=2, or one like RoBERTa's"
            )
        between = [tokenizer.separator_ids] if pairs and template is None else []
        super().__init__(
            tokenizer,
            seq_len=seq_len,
            packing=packing,
            around=(tokenizer.prefix_ids, *between, tokenizer.suffix_ids),
            token_types=pairs and token_types and template is None,
            of_segments=labels.features,
        )
        self.columns = (TEXT, TEXT_PAIR) if pairs else (TEXT,)
        self.room = seq_len - sum(map(len, self.around))
        if self.room < len(self.columns):
            raise DataError(
                f"data.seq_len={seq_len} leaves no room beside the {seq_len - self.room} tokens around a text; raise it"
            )
        self.template = None if template is None else TextTemplate(tokenizer, template, room=self.room)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the examples depend on, beside records and tokenizer."""
        types = {} if self.token_types else {"token_types": False}
        template = {} if self.template is None else {"template": self.template.pieces}
        return {**super().settings, **types, **template, **self.labels.settings}

    def keeps(self, record: Record) -> bool:
        """Return whether no text is blank."""
        return all(record.text(column).strip() for column in self.columns)

    def examples(self, records: Sequence[Record], numbers: Sequence[int]) -> Iterator[Example]:
        """Yield each record."""
        texts = [[record.text(column) for column in self.columns] for record in records]
        for number, record, each, (ids, types, is_cut) in zip(
            numbers, records, texts, self.framed(texts), strict=True
        ):
            arrays = {"token_ids": ids, "token_type_ids": types, **self.labelled(record)}
            size = sum(len(text.encode()) for text in each)
            yield self.example(number, arrays, weight=weight_of(record), num_bytes=size, is_cut=is_cut)

    def labelled(self, record: Record) -> dict[str, np.ndarray]:
        """Return what a row holds of a record's label, [1] each."""
        values = self.labels.of(record)
        return {
            feature.name: np.array([values[feature.name]], feature.dtype) for feature in self.labels.features
        }

    def framed(self, texts: Sequence[Sequence[str]]) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
        """Yield the ids of each example, int32 [n], which of its texts each belongs to, and whether some are left out.

        Args:
            texts: Of each example the text, or both.
        """
        if self.template is not None:
            before, behind = self.around
            for kept, is_cut in self.template.batch(texts):
                framed = np.array([*before, *kept, *behind], np.int32)
                yield framed, np.zeros_like(framed), is_cut
            return
        encoded = iter(self.tokenizer.encode_batch([text for each in texts for text in each]))
        for each in texts:
            parts = [next(encoded) for _ in each]
            yield *self.joined(parts), sum(map(len, parts)) > self.room

    def joined(self, parts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of texts that are tokenised, cut and framed, int32 [n], and which each belongs to.

        Args:
            parts: The ids of the text, or of both.
        """
        kept = shares([len(part) for part in parts], self.room)
        ids, types = list(self.around[0]), [0] * len(self.around[0])
        for place, (part, count, behind) in enumerate(zip(parts, kept, self.around[1:], strict=True)):
            ids += [*part[:count], *behind]
            types += [place] * (count + len(behind))
        return np.array(ids, np.int32), np.array(types, np.int32)


def text_pieces(template: str | None, *, pairs: bool) -> tuple[str, ...] | None:
    """Return what stands around and between the texts of a template; None of none."""
    if template is None:
        return None
    return split_template(template, *((TEXT, TEXT_PAIR) if pairs else (TEXT,)))
