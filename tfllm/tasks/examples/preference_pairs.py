"""Records of a prompt and two answers → two segments of a row, next to each other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfllm.data.conversation import (
    ASSISTANT,
    CHOSEN,
    COMPLETION,
    MESSAGES,
    PROMPT,
    Conversation,
    conversation_of,
)
from tfllm.data.errors import DataError
from tfllm.data.examples import Example
from tfllm.data.layout import Feature
from tfllm.data.record import Record
from tfllm.tasks.examples.labels import weight_of
from tfllm.tasks.examples.learned_tokens import learned_arrays, learned_layout
from tfllm.tasks.examples.rendered import Rendered, size_of

REJECTED = "rejected"
_PAIRS_A_ROW = 8  # at most, with packing


class PreferencePairs(Rendered):
    """Renders both conversations of a record.

    A row holds `token_ids`, `targets`, `segment_ids` and `learned`, 1 where the answer was written that is compared;
    and of each segment `weights`, `example_ids` and two numbers, `keys_low` and `keys_high`, which differ where
    segments do. The chosen answer's segment stands before the rejected one's.

    Args:
        tokenizer, seq_len, packing, on_too_long: As in `Rendered`; both conversations are cut alike.
    """

    def __init__(self, tokenizer: Any, *, seq_len: int, packing: bool, on_too_long: str):
        layout = learned_layout(
            tokenizer,
            seq_len=2 * seq_len,
            packing=packing,
            more=(Feature("keys_low", None), Feature("keys_high", None)),
            segments=2 * _PAIRS_A_ROW,
            fewest=2,
        )
        super().__init__(
            tokenizer,
            seq_len=seq_len,
            packing=packing,
            on_too_long=on_too_long,
            layout=layout,
            kind="preference 1",
        )

    def examples(self, records: Sequence[Record], numbers: Sequence[int]) -> Iterator[Example]:
        """Yield the two conversations of each record, in one example, but for those that are dropped.

        Raises:
            DataError: One is not for this template, or too long and not to be cut, or both answers are the same.
        """
        for number, record in zip(numbers, records, strict=True):
            whole = pair_of(record)
            found, is_cut = self._fitted(record, whole)
            if found is None:
                continue
            parts = [learned_arrays(*each) for each in found]
            arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            keys = np.array([_key(ids) for ids, _ in found], np.int32)
            arrays["keys_low"], arrays["keys_high"] = keys[:, 0], keys[:, 1]
            arrays["weights"] = np.full(2, weight_of(record), np.float32)
            arrays["example_ids"] = np.full(2, number, np.int32)
            sizes = tuple(len(ids) - 1 for ids, _ in found)
            yield Example(number, arrays, sum(sizes), sum(map(size_of, whole)), sizes, is_cut=is_cut)

    def _encoded(self, record: Record, conversation: Conversation) -> tuple[list[int], list[bool]]:
        """The ids of a conversation, and which of them its last answer wrote."""
        ids, answers = self.rendered(record, conversation)
        last = max(answers, default=-1)
        if last < 0:
            raise DataError(
                f"{record.at}the chat template marks no answer; put {{% generation %}} … {{% endgeneration %}} around"
                " it"
            )
        return ids, [answer == last for answer in answers]

    def _fitted(
        self, record: Record, pair: tuple[Conversation, Conversation]
    ) -> tuple[list[tuple[list[int], list[bool]]] | None, bool]:
        """Both conversations, or without the same oldest turns; None where the record is left out."""
        found = [self._encoded(record, each) for each in pair]
        longest = max(len(ids) for ids, _ in found)
        if self.fits(longest):
            return found, False
        if self.on_too_long == "error":
            raise DataError(
                f"{record.at}an answer and what is said before it have {longest} tokens, which do not fit"
                f" data.seq_len={self.seq_len}; raise it, or write data.on_too_long: cut_oldest_turns or drop"
            )
        if self.on_too_long == "drop":
            return None, True
        for shorter in zip(*(each.shorter() for each in pair), strict=False):
            if any(each.messages[-1]["role"] != ASSISTANT for each in shorter):
                continue
            found = [self._encoded(record, each) for each in shorter]
            if self.fits(max(len(ids) for ids, _ in found)):
                return found, True
        return None, True


def pair_of(record: Record) -> tuple[Conversation, Conversation]:
    """Read both conversations of a record: columns prompt, chosen and rejected; or chosen and rejected alone, each the
    whole conversation.

    Raises:
        DataError: A column is not there, an answer is empty, or both are the same.
    """
    for name in (CHOSEN, REJECTED):
        if name not in record.fields:
            there = ", ".join(map(repr, list(record.fields)[:20])) or "none"
            raise DataError(
                f"{record.at}no column {name!r}; the columns are {there}; say which it is, e.g."
                f" {record.columns_key or 'columns'}: {{{name}: better_answer}}"
            )
    chosen, rejected = (_with_answer(record, name) for name in (CHOSEN, REJECTED))
    if chosen.messages == rejected.messages:
        raise DataError(
            f"{record.at}chosen and rejected say the same, so neither is preferred; leave the record out"
        )
    for name, each in ((CHOSEN, chosen), (REJECTED, rejected)):
        if each.messages[-1]["role"] != ASSISTANT:
            raise DataError(
                f"{record.at}{name} ends with the {each.messages[-1]['role']}'s message, and the assistant's answers"
                " are compared; end it with one"
            )
    return chosen, rejected


def _with_answer(record: Record, name: str) -> Conversation:
    others = {key: value for key, value in record.fields.items() if key not in (CHOSEN, REJECTED, MESSAGES)}
    if PROMPT in record.fields:
        fields = {**others, COMPLETION: record.fields[name]}
    else:
        fields = {**others, MESSAGES: record.fields[name]}
    return conversation_of(Record(fields, record.place, record.columns_key))


def _key(ids: Sequence[int]) -> tuple[int, int]:
    """Two numbers that both are equal for two texts but once in 10^19 times."""
    digest = hashlib.blake2b(np.array(ids, "<i4").tobytes(), digest_size=8).digest()
    low, high = np.frombuffer(digest, "<i4")
    return int(low), int(high)
