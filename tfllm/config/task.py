"""The task section: what a model is trained for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from tfllm.config.errors import Problem
from tfllm.config.registry import Registry
from tfllm.config.setting import setting
from tfllm.config.template import split_template

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledTextConfig(TaskConfig):
    """What tasks have in common that read a label off the vector of a text, or of two, that model.pooling makes."""

    trains: ClassVar[str] = "encoder"
    also_trains: ClassVar[tuple[str, ...]] = ("decoder",)

    type: str
    pairs: bool = setting(False, "a record is two texts, in columns text and text_pair")
    template: str | None = setting(
        None, "text around {text}, and of pairs {text_pair} behind it, e.g. 'Review: {text}\\nIt was'"
    )

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns whose texts are read."""
        return ("text", "text_pair") if self.pairs else ("text",)

    @property
    def altered(self) -> tuple[str, ...]:  # type: ignore[override]
        """All that is read."""
        return self.text_columns

    def check_training(self, config: Any) -> Iterator[Problem]:
        """Yields a head of another kind, and an export that there is not."""
        yield from _other_head(self, config, "sequence_classification")
        if config.export.at_end and self.pairs and self.template is not None:
            rule = (
                "is not for task.pairs with task.template, whose model is called by lm.classify or lm.regress"
            )
            yield Problem("export.at_end", True, rule, "leave one of the three out")

    def check(self, path: str) -> Iterator[Problem]:
        """Yields a template that is none."""
        yield from super().check(path)
        if self.template is not None:
            try:
                split_template(self.template, *self.text_columns)
            except ValueError as error:
                mend = f"write for example '{' / '.join('{' + name + '}' for name in self.text_columns)}'"
                yield Problem(f"{path}.template", self.template, str(error), mend)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassesConfig(TaskConfig):
    """What tasks have in common that tell classes apart, one of them each time, or any number."""

    labels: ClassVar[str | None] = "classes"

    type: str
    class_weights: dict[str, float] = setting(
        {}, "how much the loss of each class counts, by name; those left out count 1"
    )
    balanced: bool = setting(
        False, "class_weights are such that all classes count alike in the training text"
    )
    label_smoothing: float = setting(
        0.0, "share of what is learned that is spread over all classes", minimum=0.0, below=1.0
    )

    def check(self, path: str) -> Iterator[Problem]:
        """Yields weights that are none, or stand beside those that are found."""
        for name, weight in self.class_weights.items():
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
                rule = "must be a number that is not negative"
                yield Problem(f"{path}.class_weights.{name}", weight, rule, "write for example 2.0")
        if self.balanced and self.class_weights:
            rule = "finds what task.class_weights says already"
            yield Problem(f"{path}.balanced", True, rule, "leave one of both out")


@TASKS.register("classification", builds="tfllm.tasks.classification:classification")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassificationConfig(LabelledTextConfig, ClassesConfig):
    """Tell classes of texts apart: columns text and label; a column weight, where there is one, weighs a record.

    The classes are those of the training text. They read the vector that model.pooling makes: of an encoder that of the
    first token through a pooler, as BERT has it; of a decoder that of the last.
    """

    type: str = "classification"
    multi_label: bool = setting(
        False, "a text has any number of classes: a list of names, or text with separators between them"
    )
    label_separator: str = setting(",", "what stands between names in such a text")

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        yield from super().check(path)
        if self.balanced and self.multi_label:
            rule = "counts texts by their one class, and task.multi_label has any number"
            yield Problem(f"{path}.balanced", True, rule, "leave it out, or write task.class_weights")
        if not self.label_separator:
            rule = "must be the character or the text between names"
            yield Problem(f"{path}.label_separator", "", rule, "write for example ';'")


@TASKS.register("regression", builds="tfllm.tasks.regression:Regression")
@dataclasses.dataclass(frozen=True, kw_only=True)
class RegressionConfig(LabelledTextConfig):
    """Tell a number from a text: columns text and label; a column weight, where there is one, weighs a record."""

    labels: ClassVar[str | None] = "numbers"

    type: str = "regression"


@TASKS.register("token_classification", builds="tfllm.tasks.token_classification:TokenClassification")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenClassificationConfig(TaskConfig):
    """Tell what words are, or which are names and of what: columns tokens and tags, or text and spans; a column
    weight, where there is one, weighs a record.

    The tags are those of the training text, in whatever scheme, and are learned as B-, I- and O where they mark spans.
    """

    trains: ClassVar[str] = "encoder"
    labels: ClassVar[str | None] = "tags"
    altered: ClassVar[tuple[str, ...]] = ("tokens",)

    type: str = "token_classification"
    tag_names: tuple[str, ...] = setting(
        (), "names of tags that are numbers in the text, in their order, e.g. [O, B-PER, I-PER]"
    )

    def check_training(self, config: Any) -> Iterator[Problem]:
        """Yields a head of another kind, and an export that there is not."""
        yield from _other_head(self, config, "token_classification")
        if config.export.at_end:
            rule = f"is not for task.type={self.type}, whose model is called by lm.entities"
            yield Problem("export.at_end", True, rule, "leave it out")

    def check(self, path: str) -> Iterator[Problem]:
        """Yields names that stand twice."""
        twice = sorted({name for name in self.tag_names if self.tag_names.count(name) > 1})
        if twice:
            rule = f"names {twice[0]} twice"
            yield Problem(
                f"{path}.tag_names", list(self.tag_names), rule, "give each number a name of its own"
            )


@TASKS.register("relation_extraction", builds="tfllm.tasks.relation_extraction:relation_extraction")
@dataclasses.dataclass(frozen=True, kw_only=True)
class RelationExtractionConfig(ClassesConfig):
    """Tell how two places of a text are related: columns text, head and tail ([start, end], in characters) and label; a
    column weight, where there is one, weighs a record.

    Both places are marked in the text, which is then classified.
    """

    trains: ClassVar[str] = "encoder"
    also_trains: ClassVar[tuple[str, ...]] = ("decoder",)
    multi_label: ClassVar[bool] = False

    type: str = "relation_extraction"
    no_relation: str | None = setting(
        None, "the label that says that there is none, which relation_f1 does not count"
    )

    def check_training(self, config: Any) -> Iterator[Problem]:
        """Yields a head of another kind, and an export that there is not."""
        yield from _other_head(self, config, "sequence_classification")
        if config.export.at_end:
            rule = f"is not for task.type={self.type}, whose model is called by lm.relate"
            yield Problem("export.at_end", True, rule, "leave it out")


@TASKS.register("span_qa", builds="tfllm.tasks.span_qa:SpanQA")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanQAConfig(TaskConfig):
    """Find the answer to a question in its context: columns question, context and answers; a column weight, where there
    is one, weighs a record.

    Answers are a list of {text, answer_start}, empty where the context has none, as SQuAD has it; or one text.
    """

    trains: ClassVar[str] = "encoder"
    labels: ClassVar[str | None] = "answers"

    type: str = "span_qa"
    stride: int = setting(
        128, "tokens that a window of a long context shares with the next; at most half of it", minimum=0
    )
    max_answer_tokens: int = setting(30, "tokens of an answer, at most", minimum=1)
    unanswerable: bool = setting(
        False, "questions may have no answer; found in the training text where it has such"
    )

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns whose texts are read; all questions about a context fall on one side of a split."""
        return ("context", "question")

    @staticmethod
    def encoder_keys(task: Mapping[str, Any]) -> Mapping[str, Any]:
        """What an encoder of this task has, where it says nothing else."""
        del task
        return {"head": "span"}

    def check_training(self, config: Any) -> Iterator[Problem]:
        """Yields an export that there is not, and text whose answers are not found again."""
        if config.export.at_end:
            rule = f"is not for task.type={self.type}, whose model is called by lm.answer"
            yield Problem("export.at_end", True, rule, "leave it out")
        if getattr(config.data.train, "type", "") != "mixture":
            return
        why = "the answers of held-out questions are looked up in one source"
        if config.data.validation is None:
            rule, mend = f"is required beside a mixture: {why}", "write data.validation.type and .path"
            yield Problem("data.validation", Problem.ABSENT, rule, mend)
        if config.data.test_fraction:
            rule, mend = f"holds out of a mixture, and {why}", "write data.test.type and .path instead"
            yield Problem("data.test_fraction", config.data.test_fraction, rule, mend)


@TASKS.register("seq2seq", builds="tfllm.tasks.seq2seq:Seq2Seq")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig(TaskConfig):
    """Write a target to a source, as translations and summaries are: columns source and target, a text or a list of
    texts that are right, of which the first is learned; a column weight, where there is one, weighs a record.

    An encoder-decoder reads the source with its encoder; a decoder reads it in a template, and goes on with the target.
    """

    trains: ClassVar[str] = "encoder_decoder"
    also_trains: ClassVar[tuple[str, ...]] = ("decoder",)
    too_long: ClassVar[tuple[str, ...]] = ("cut_source", "drop", "error")
    altered: ClassVar[tuple[str, ...]] = ("source",)
    writes: ClassVar[bool] = True

    type: str = "seq2seq"
    template: str | None = setting(
        None, "text around {source}, e.g. 'translate English to French: {source}'; a decoder needs one"
    )
    label_smoothing: float = setting(
        0.0, "share of each target that goes to all tokens alike", minimum=0.0, below=1.0
    )

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns whose texts are read."""
        return ("source", "target")

    def check_training(self, config: Any) -> Iterator[Problem]:
        """Yields a decoder that could not tell where a source ends."""
        if config.kind == "decoder" and self.template is None:
            rule = "is required, for a decoder reads source and target as one text"
            mend = "write for example 'Translate: {source}\\nTranslation:'"
            yield Problem("task.template", Problem.ABSENT, rule, mend)

    def check(self, path: str) -> Iterator[Problem]:
        """Yields a template that is none."""
        if self.template is not None:
            try:
                split_template(self.template, "source")
            except ValueError as error:
                mend = "write for example 'Summarize: {source}'"
                yield Problem(f"{path}.template", self.template, str(error), mend)


def _other_head(task: Any, config: Any, head: str) -> Iterator[Problem]:
    """A model section that says another head than a task trains."""
    there = getattr(config.model, "head", "none")
    if there not in ("none", "causal_lm", head) and config.model.source is None:
        rule = f"is not trained by task.type={task.type}, which needs {head}"
        yield Problem("model.head", there, rule, "leave it out: the task knows")
