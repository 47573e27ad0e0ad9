"""The task of answering in conversations."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tfllm.config.setting import setting
from tfllm.config.task import TASKS, TaskConfig


@TASKS.register("chat", builds="tfllm.tasks.chat:Chat")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatConfig(TaskConfig):
    """Answer in conversations, through a chat template: a column messages, of {role, content} or of {from, value}; or
    conversations; or prompt and completion; and perhaps tools. A column weight, where there is one, weighs a record.

    What is said makes no control tokens. An answer is learned with the token that ends its turn; one whose message says
    `train: false` is read only.
    """

    trains: ClassVar[str] = "decoder"
    too_long: ClassVar[tuple[str, ...]] = ("cut_oldest_turns", "drop", "error")
    chats: ClassVar[bool] = True

    type: str = "chat"
    train_on: str = setting(
        "assistant",
        "what is learned: all answers, the last one, or every token",
        choices=("assistant", "last_assistant", "all"),
    )
    template_file: str | None = setting(
        None, "a chat template in Jinja, which the run keeps; null: that of the tokenizer"
    )

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns whose texts are read; what the user says first decides the side of a split."""
        return ("messages",)
