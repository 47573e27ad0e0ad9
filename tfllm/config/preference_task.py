"""The task of preferring one answer to another."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

from tfllm.config.errors import Problem
from tfllm.config.setting import setting
from tfllm.config.task import TASKS, TaskConfig

# Losses that compare with what the model said at the start.
_OF_REFERENCE = ("dpo", "ipo")


@TASKS.register("preference", builds="tfllm.tasks.preference:Preference")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceConfig(TaskConfig):
    """Prefer one answer to another: columns prompt, chosen and rejected, texts or lists of messages, through a chat
    template. A column weight, where there is one, weighs a record.
    """

    trains: ClassVar[str] = "decoder"
    too_long: ClassVar[tuple[str, ...]] = ("cut_oldest_turns", "drop", "error")
    chats: ClassVar[bool] = True

    type: str = "preference"
    loss: str = setting(
        "dpo",
        "how pairs are compared; the last two need no reference",
        choices=("dpo", "ipo", "simpo", "orpo"),
    )
    beta: float | None = setting(
        None, "how much a difference counts; null: that of the paper, 0.1, and 2 of simpo", above=0.0
    )
    label_smoothing: float = setting(
        0.0, "of dpo: share of pairs that are taken to be the wrong way round", minimum=0.0, below=0.5
    )
    margin: float = setting(1.0, "of simpo: by how much the chosen answer is to be likelier", minimum=0.0)
    template_file: str | None = setting(
        None, "a chat template in Jinja, which the run keeps; null: that of the tokenizer"
    )

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns whose texts are read; what the user says first decides the side of a split."""
        return ("messages",)

    @property
    def reference(self) -> bool:
        """Whether it compares with what the model said at the start."""
        return self.loss in _OF_REFERENCE

    def check(self, path: str) -> Iterator[Problem]:
        """Yields keys of other losses."""
        if self.label_smoothing and self.loss != "dpo":
            rule = f"is of task.loss=dpo, and this is {self.loss}"
            yield Problem(f"{path}.label_smoothing", self.label_smoothing, rule, "leave it out")
        if self.margin != 1.0 and self.loss != "simpo":
            rule = f"is of task.loss=simpo, and this is {self.loss}"
            yield Problem(f"{path}.margin", self.margin, rule, "leave it out")

    def check_training(self, config: Any) -> Iterator[Problem]:
        """Yields a model that said nothing yet."""
        if self.reference and config.model.source is None:
            rule = "compares with what the model said at the start, and it was drawn at random"
            yield Problem("task.loss", self.loss, rule, "name model.source, or take simpo or orpo")
