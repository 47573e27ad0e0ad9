"""Records of conversations → tokens of which those are learned that the assistant wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfllm.data.conversation import ASSISTANT, Conversation, conversation_of
from tfllm.data.errors import DataError
from tfllm.data.examples import Example
from tfllm.data.record import Record
from tfllm.tasks.examples.labels import weight_of
from tfllm.tasks.examples.learned_tokens import learned_arrays, learned_layout
from tfllm.tasks.examples.rendered import Rendered, size_of


class ChatTurns(Rendered):
    """Renders each conversation, and tells what of it is learned.

    Rows hold `token_ids`, `targets` and `learned`, and of each segment, which is one conversation, `weights` and
    `example_ids`. What is said makes no control tokens. An answer is learned with the token that ends its turn.

    Args:
        tokenizer, seq_len, packing, on_too_long: As in `Rendered`.
        train_on: assistant, every answer; last_assistant, the last one; all, every token.
    """

    def __init__(self, tokenizer: Any, *, seq_len: int, packing: bool, train_on: str, on_too_long: str):
        super().__init__(
            tokenizer,
            seq_len=seq_len,
            packing=packing,
            on_too_long=on_too_long,
            layout=learned_layout(tokenizer, seq_len=seq_len, packing=packing),
            kind="chat 1",
        )
        self.train_on = train_on

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the examples depend on, beside records and tokenizer."""
        return {**super().settings, "train_on": self.train_on}

    def examples(self, records: Sequence[Record], numbers: Sequence[int]) -> Iterator[Example]:
        """Yield each conversation, but for those that are dropped.

        Raises:
            DataError: One is not for this template, or too long and not to be cut.
        """
        for number, record in zip(numbers, records, strict=True):
            whole = conversation_of(record)
            ids, is_learned = self._encoded(record, whole)
            is_cut = not self.fits(len(ids))
            if is_cut:
                found = self._fitted(record, whole, len(ids))
                if found is None:
                    continue
                ids, is_learned = found
            if not any(is_learned[1:]):
                continue
            arrays = learned_arrays(ids, is_learned)
            arrays["weights"] = np.array([weight_of(record)], np.float32)
            arrays["example_ids"] = np.array([number], np.int32)
            yield Example(number, arrays, len(ids) - 1, size_of(whole), is_cut=is_cut)

    def _wanted(self, record: Record, conversation: Conversation) -> list[bool]:
        """Which of the answers are learned."""
        if self.train_on == "all":
            if not all(conversation.is_learned):
                raise DataError(
                    f"{record.at}a message says that it is not learned, and task.train_on=all learns every token;"
                    " write task.train_on: assistant"
                )
            return [True] * len(conversation.messages)
        wanted = [
            is_learned
            for message, is_learned in zip(conversation.messages, conversation.is_learned, strict=True)
            if message["role"] == ASSISTANT
        ]
        if not wanted:
            raise DataError(
                f"{record.at}no message is the assistant's, whose answers are learned; leave the record out, or write"
                " task.train_on: all"
            )
        if self.train_on == "last_assistant":
            wanted[:-1] = [False] * (len(wanted) - 1)
        return wanted

    def _encoded(self, record: Record, conversation: Conversation) -> tuple[list[int], list[bool]]:
        """The ids of a conversation, and which of them are learned."""
        wanted = self._wanted(record, conversation)
        ids, answers = self.rendered(record, conversation)
        if self.train_on == "all":
            return ids, [True] * len(ids)
        found = max(answers, default=-1) + 1
        if found > len(wanted) or (found < len(wanted) and not all(wanted)):
            raise DataError(
                f"{record.at}the chat template marks {found} answers of {len(wanted)}, so which of them is learned is"
                " not known; put {% generation %} … {% endgeneration %} around each"
            )
        return ids, [answer >= 0 and wanted[answer] for answer in answers]

    def _fitted(
        self, record: Record, whole: Conversation, length: int
    ) -> tuple[list[int], list[bool]] | None:
        """What is left without the oldest turns; None where the conversation is left out."""
        if self.on_too_long == "error":
            raise DataError(
                f"{record.at}the conversation has {length} tokens, and data.seq_len={self.seq_len} has places for"
                f" {self.seq_len + 1}; raise it, or write data.on_too_long: cut_oldest_turns or drop"
            )
        if self.on_too_long == "drop":
            return None
        shorter = [each for each in whole.shorter() if any(m["role"] == ASSISTANT for m in each.messages)]
        first, last = 0, len(shorter)
        best = None
        while first < last:
            middle = (first + last) // 2
            ids, is_learned = self._encoded(record, shorter[middle])
            if not self.fits(len(ids)):
                first = middle + 1
            else:
                last, best = middle, (ids, is_learned)
        return best if best is not None and any(best[1][1:]) else None
