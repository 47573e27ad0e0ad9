"""The task section: what a model is trained for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from tfllm.config.errors import Problem
from tfllm.config.registry import Registry
from tfllm.config.setting import setting

TASKS = Registry(
    "task",
    default="causal_lm",
    needs=("trains", "special_tokens", "text_columns", "encoder_keys", "check_training"),
)


class TaskConfig:
    """What every task says beside its keys; one of a plug-in may inherit it.

    Attributes:
        trains: The kind of model: decoder, encoder or encoder_decoder.
        also_trains: Other kinds that it trains.
        too_long: What `data.on_too_long` may say about texts that do not fit; the first where it says nothing.
        writes: Texts are written while evaluating.
        chats: It reads conversations, through a chat template; it may have a key `template_file`.
        altered: The columns in which `data.augment` makes copies differ; none where it must not.
        special_tokens: What a tokenizer that is learned for it has besides: names by role, such as `mask_token`, and
            `extra_special_tokens`, a tuple of names.
        labels: What is said of a text, where the task reads it: `classes`, whose names are those that the training
            text has; `numbers`; `tags`, of its words, whose names are found too; or `answers`, which it may lack.
    """

    trains: ClassVar[str]
    also_trains: ClassVar[tuple[str, ...]] = ()
    labels: ClassVar[str | None] = None
    too_long: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[bool] = False
    chats: ClassVar[bool] = False
    altered: ClassVar[tuple[str, ...]] = ()
    special_tokens: ClassVar[Mapping[str, Any]] = {}

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns whose texts are read; the first says on which side of a split a record falls."""
        return ("text",)

    @staticmethod
    def encoder_keys(task: Mapping[str, Any]) -> Mapping[str, Any]:
        """What an encoder of this task has, where it says nothing else, such as its `head`; `task` is the section."""
        del task
        return {}

    def check_training(self, config: Any) -> Iterator[Problem]:
        """Yields problems between the task and other sections of a config, which is to be trained."""
        del config
        return iter(())

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        del path
        return iter(())


@TASKS.register("causal_lm", builds="tfllm.tasks.causal_lm:causal_lm")
@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalLMConfig(TaskConfig):
    """Predict each next token."""

    trains: ClassVar[str] = "decoder"

    type: str = "causal_lm"


@TASKS.register("masked_lm", builds="tfllm.tasks.masked_lm:MaskedLM")
@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLMConfig(TaskConfig):
    """Predict hidden tokens, as BERT does."""

    trains: ClassVar[str] = "encoder"
    special_tokens: ClassVar[Mapping[str, Any]] = {"mask_token": "<|mask|>"}

    type: str = "masked_lm"
    mask_rate: float = setting(0.15, "share of the tokens that are hidden", above=0.0, below=1.0)
    mask_split: tuple[float, ...] = setting(
        (0.8, 0.1, 0.1), "of these, shares that become the mask token, another token, and stay as they are"
    )
    whole_words: bool = setting(False, "hide all tokens of a word, or none")
    next_sentence: bool = setting(
        False,
        "rows are two parts; learn also whether the second follows the first, or is of another document",
    )

    @staticmethod
    def encoder_keys(task: Mapping[str, Any]) -> Mapping[str, Any]:
        """What an encoder of this task has, where it says nothing else."""
        pairs = {"next_sentence_head": True, "pooler": "tanh"} if task.get("next_sentence") else {}
        return {"head": "masked_lm", **pairs}

    def check_training(self, config: Any) -> Iterator[Problem]:
        """Yields what tells no two parts of a row apart."""
        if self.next_sentence and getattr(config.model, "num_token_types", 2) < 2:
            rule = "tells no two parts of a row apart, which task.next_sentence needs"
            yield Problem("model.num_token_types", config.model.num_token_types, rule, "write 2")

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        shares = self.mask_split
        if len(shares) != 3 or min(shares) < 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
            rule = "must be three shares that add up to 1"
            yield Problem(f"{path}.mask_split", list(shares), rule, "write for example [0.8, 0.1, 0.1]")


@TASKS.register("span_corruption", builds="tfllm.tasks.span_corruption:SpanCorruption")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanCorruptionConfig(TaskConfig):
    """Write the spans that were taken out of a text, as T5 does."""

    trains: ClassVar[str] = "encoder_decoder"
    special_tokens: ClassVar[Mapping[str, Any]] = {
        "extra_special_tokens": tuple(f"<extra_id_{i}>" for i in range(100))
    }

    type: str = "span_corruption"
    corruption_rate: float = setting(0.15, "share of the tokens that are taken out", above=0.0, below=1.0)
    mean_span_length: float = setting(3.0, "tokens of a span, on the average", minimum=1.0)


@TASKS.register("contrastive", builds="tfllm.tasks.contrastive:Contrastive")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(TaskConfig):
    """Bring texts that belong together near: columns anchor and positive; or text alone, with twins."""

    trains: ClassVar[str] = "encoder"

    type: str = "contrastive"
    temperature: float = setting(0.05, "what products of vectors are divided by", above=0.0)
    directions: str = setting(
        "both",
        "whether anchors are told too, by their positives, or positives only",
        choices=("both", "anchor_to_positive"),
    )
    pooling: str = setting(
        "mean", "how a text's vector is made of its tokens'", choices=("mean", "first", "last")
    )
    mask_duplicates: bool = setting(True, "a text equal to the anchor or its positive is no negative")
    twins: bool = setting(
        False, "each text is its own positive, and dropout makes the difference, as in SimCSE"
    )
    negatives: int = setting(0, "hard negatives of each example, in a column negative", minimum=0)

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns whose texts are read."""
        return ("text",) if self.twins else ("anchor", "positive")

    @property
    def altered(self) -> tuple[str, ...]:  # type: ignore[override]
        """Anchors; twins differ by dropout."""
        return () if self.twins else ("anchor",)

    @staticmethod
    def encoder_keys(task: Mapping[str, Any]) -> Mapping[str, Any]:
        """What an encoder of this task has, where it says nothing else."""
        del task
        return {"head": "none"}

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        if self.twins and self.negatives:
            rule, mend = "means nothing with twins, which have text alone", f"leave it out, or {path}.twins"
            yield Problem(f"{path}.negatives", self.negatives, rule, mend)

    def check_training(self, config: Any) -> Iterator[Problem]:
        """Yields what leaves nothing to tell texts from."""
        if self.twins and not getattr(config.model, "dropout", 1.0):
            rule = "makes no difference between twins, which task.twins learns from"
            yield Problem("model.dropout", config.model.dropout, rule, "write 0.1, as SimCSE has it")
        if config.training.global_batch_size < 2 and not config.data.packing:
            rule = "has no other examples to tell one from"
            yield Problem("training.global_batch_size", 1, rule, "write 2 or more, better 64")
