"""Tasks that read records of texts: their labels, their words, their answers, or what is written to them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from tfllm.config.errors import Problem
from tfllm.config.setting import setting
from tfllm.config.task import TASKS, TaskConfig
from tfllm.config.template import split_template


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
