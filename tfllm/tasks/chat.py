"""Answer in a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import tensorflow as tf

from tfllm.data.conversation import conversation_of
from tfllm.data.record import Record
from tfllm.tasks.errors import TaskError
from tfllm.tasks.examples.chat_turns import ChatTurns
from tfllm.tasks.target_tokens import TargetTokens, with_learned_weights
from tfllm.tokenizers.chat import encode_prompt

Features = dict[str, tf.Tensor]


class Chat(TargetTokens):
    """Cross-entropy of what the assistant writes in conversations, through the tokenizer's chat template.

    Args:
        tokenizer: The tokenizer.
        train_on: As in `ChatTurns`.
        on_too_long: As in `ChatTurns`; None cuts the oldest turns.
        loss_chunk_tokens: As in `CausalLM`.

    Raises:
        TaskError: the tokenizer has no chat template.
    """

    aligned: ClassVar[Mapping[str, str]] = {"loss_weights": ""}

    def __init__(
        self,
        *,
        tokenizer: Any,
        train_on: str = "assistant",
        on_too_long: str | None = None,
        loss_chunk_tokens: int | None = None,
    ):
        super().__init__(loss_chunk_tokens=loss_chunk_tokens)
        if not tokenizer.chat_template:
            raise TaskError(
                "task.type=chat needs a chat template, and this tokenizer has none; write the path of one in Jinja as"
                " task.template_file, or take a checkpoint that was tuned for chat"
            )
        self.tokenizer, self.train_on = tokenizer, train_on
        self.on_too_long = on_too_long or "cut_oldest_turns"

    def examples_of(self, tokenizer: Any, *, seq_len: int, packing: bool) -> ChatTurns:
        """What renders and tokenises conversations."""
        return ChatTurns(
            tokenizer, seq_len=seq_len, packing=packing, train_on=self.train_on, on_too_long=self.on_too_long
        )

    def features(self, rows: Features) -> Features:
        """`loss_weights`, the weight of its record for each token that is learned."""
        return with_learned_weights(rows)

    def prompt_ids(self, prompt: str) -> list[int]:
        """The ids that an answer to what a user says is written to."""
        return encode_prompt(self.tokenizer, [{"role": "user", "content": prompt}])

    def prompt_of(self, record: Record, room: int | None = None) -> list[int]:
        """The same of what a record says before its last answer; the oldest turns are left out where it has no room."""
        whole = conversation_of(record).to_answer
        for conversation in (whole, *whole.shorter()):
            tools = list(conversation.tools) or None
            ids = encode_prompt(self.tokenizer, conversation.messages, tools=tools)
            if room is None or len(ids) <= room:
                break
        return ids

    def told(self, text: str) -> str:
        """What is answered, of what was generated."""
        return text.strip()
