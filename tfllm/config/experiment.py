"""The whole config: every section, and the rules between them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tfllm.config import (  # noqa: F401  enter their types
    chat_task,
    decoder,
    encoder,
    encoder_decoder,
    preference_task,
    text_task,
)
from tfllm.config.data import DataConfig
from tfllm.config.errors import Problem
from tfllm.config.model import MODELS
from tfllm.config.optimizer import OPTIMIZERS
from tfllm.config.peft import PEFT
from tfllm.config.sections import (
    DISTRIBUTIONS,
    TOKENIZERS,
    EvaluationConfig,
    ExportConfig,
    GenerationConfig,
    TrainingConfig,
)
from tfllm.config.setting import setting
from tfllm.config.task import TASKS


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """One experiment: text in, a model out."""

    name: str = setting(help="a short name; the run folder is runs/<name>")
    seed: int = setting(0, "start of every random number", minimum=0, maximum=2**31 - 1)
    task: Any = setting("causal_lm", registry=TASKS)
    tokenizer: Any = setting("byte_bpe", registry=TOKENIZERS)
    model: Any = setting("decoder", registry=MODELS)
    peft: Any | None = setting(None, "what is trained of the model; null: all of it", registry=PEFT)
    data: DataConfig = setting({})
    optimizer: Any = setting("adamw", registry=OPTIMIZERS)
    training: TrainingConfig = setting({})
    distribution: Any = setting("one_device", registry=DISTRIBUTIONS)
    generation: GenerationConfig = setting({})
    evaluation: EvaluationConfig = setting({})
    export: ExportConfig = setting({})
    plugins: tuple[str, ...] = setting((), "modules to import first, which register types of their own")

    @classmethod
    def expand(cls, mapping: Mapping[str, Any], path: str, problems: list[Problem]) -> Mapping[str, Any]:
        """A pretrained model comes with its tokenizer, where no other is named; an encoder has what its task needs."""
        del path, problems
        model, task = (
            part if isinstance(part, Mapping) else {"type": part}
            for part in (mapping.get("model"), mapping.get("task", TASKS.default))
        )
        if model.get("type") == "pretrained":
            return {"tokenizer": "pretrained", **mapping}
        known: Any = TASKS.get(task.get("type", TASKS.default))  # else it is reported where it stands
        if model.get("type") == "encoder" and known is not None:
            return {**mapping, "model": {**known.encoder_keys(task), **model}}
        return mapping

    @property
    def context_length(self) -> int:
        """The longest context of the model, in tokens."""
        return self.model.max_seq_len or self.data.seq_len

    @property
    def kind(self) -> str:
        """The kind of model: decoder, encoder or encoder_decoder; where it does not say, the one the task trains."""
        return str(self.model.kind or self.task.trains)

    @property
    def context_is_open(self) -> bool:
        """Whether the model takes texts of any length."""
        return self.model.max_seq_len is None and getattr(self.model, "positions", "") == "relative"

    def check_for_training(self) -> Iterator[Problem]:
        """Yields what is wrong about a config that is to be trained, and not about one that a model came with."""
        needed, kind = (self.task.trains, *getattr(self.task, "also_trains", ())), self.model.kind
        if kind not in (*needed, None):
            kinds = " or ".join(f"{'an' if each.startswith('e') else 'a'} {each}" for each in needed)
            rule = f"is not trained by task.type={self.task.type}, which needs {kinds}"
            yield Problem("model.type", self.model.type, rule, f"take {kinds}, or a source that is one")
        elif kind == "encoder":
            yield from self._check_task_of_encoder()
        elif kind == "decoder":
            yield from self._check_task_of_decoder()
        if kind == "encoder" or self.task.trains == "encoder":
            yield from self._check_reader()
        yield from self.task.check_training(self)
        yield from self._check_writing()
        if self.data.packing and not getattr(self.model, "reads_segments", True):
            rule = f"puts several documents in a row, which model.type={self.model.type} cannot tell apart"
            yield Problem("data.packing", True, rule, "write data.packing=false")
        if getattr(self.model, "new_head", False):
            yield from self._check_new_head()
        if self.peft is not None:
            yield from self._check_peft(self.peft)

    def _check_peft(self, peft: Any) -> Iterator[Problem]:
        """What would be frozen and was never trained."""
        if self.model.source is None:
            rule = "freezes a model whose weights were drawn at random"
            yield Problem("peft", peft.type, rule, "name model.source, or leave it out")
        new = getattr(self.tokenizer, "extra_special_tokens", ())
        trains = any("embedding" in pattern or pattern == "*" for pattern in peft.train)
        if new and not trains and getattr(peft, "holds_embeddings", True):
            rule = "adds tokens whose embeddings peft freezes as they begin"
            yield Problem(
                "tokenizer.extra_special_tokens", list(new), rule, 'write peft.train: ["*/token_embedding/*"]'
            )

    def _check_task_of_encoder(self) -> Iterator[Problem]:
        """Its layers on top are those that the task trains."""
        needed = self.task.encoder_keys(dataclasses.asdict(self.task))
        for key in ("head", "next_sentence_head"):
            value = getattr(self.model, key)
            if key in needed and value != needed[key]:
                rule = f"is not trained by task.type={self.task.type}, which needs {str(needed[key]).lower()}"
                yield Problem(f"model.{key}", value, rule, "leave it out: the task knows")

    def _check_task_of_decoder(self) -> Iterator[Problem]:
        """It tells classes, or goes on with texts."""
        head = getattr(self.model, "head", "causal_lm")
        if self.task.labels is not None and not hasattr(self.model, "head"):
            rule = f"is not trained by task.type={self.task.type}, for it has no layer that tells labels"
            yield Problem(
                "model.type", self.model.type, rule, "take an encoder, a decoder, or a source that is one"
            )
        if self.task.labels is None and head != "causal_lm":
            rule = f"is not trained by task.type={self.task.type}, which needs causal_lm"
            yield Problem(
                "model.head", head, rule, "take a model that generates, or a task that tells classes"
            )
        pooling = getattr(self.model, "pooling", None)
        if self.task.labels is None and pooling not in (None, "last"):
            rule = f"makes vectors of texts, and task.type={self.task.type} reads none"
            yield Problem("model.pooling", pooling, rule, "leave it out")

    def _check_reader(self) -> Iterator[Problem]:
        """What only a model that generates can do; one that makes a label or a vector of a text is exported too."""
        reads = self.task.labels is not None or getattr(self.task, "pooling", None) is not None
        which = "an encoder" if self.kind == "encoder" else f"one of task.type={self.task.type}"
        for path, value in (
            ("generation.prompts", list(self.generation.prompts)),
            ("export.at_end", self.export.at_end and not reads),
        ):
            if value:
                rule = f"is for models that generate, and {which} does not"
                yield Problem(path, value, rule, "leave it out")

    def _check_writing(self) -> Iterator[Problem]:
        """What only some tasks do."""
        there = getattr(self.task, "too_long", ())
        if self.data.on_too_long not in (None, *there):
            rule = f"is not for task.type={self.task.type}"
            mend = f"write one of {', '.join(there)}" if there else "leave it out"
            yield Problem("data.on_too_long", self.data.on_too_long, rule, mend)
        if self.data.augment.copies and not getattr(self.task, "altered", ()):
            rule = f"is not for task.type={self.task.type}, in whose texts nothing may be altered"
            yield Problem("data.augment.copies", self.data.augment.copies, rule, "leave it out")
        if self.evaluation.max_examples is not None and not getattr(self.task, "writes", False):
            rule = f"counts texts that are written, and task.type={self.task.type} writes none"
            yield Problem("evaluation.max_examples", self.evaluation.max_examples, rule, "leave it out")

    def _check_new_head(self) -> Iterator[Problem]:
        if self.model.source is None:
            rule, mend = "means nothing without model.source", "name a source, or leave it out"
            yield Problem("model.new_head", True, rule, mend)
        elif (
            self.kind != "encoder"
            and self.task.labels is None
            and getattr(self.model, "tie_embeddings", False)
        ):
            rule = "has no output layer to draw: model.tie_embeddings shares it with the token embedding"
            yield Problem("model.new_head", True, rule, "write model.tie_embeddings: false")

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between sections."""
        del path
        if not re.fullmatch(r"[\w][\w.-]*", self.name):
            yield Problem(
                "name", self.name, "is not a folder name", "use letters, digits, dot, dash, underscore"
            )
        if self.tokenizer.type == "pretrained" and not (self.tokenizer.source or self.model.source):
            rule, mend = (
                "is required",
                "name a checkpoint there or in model.source, or take tokenizer.type byte_bpe",
            )
            yield Problem("tokenizer.source", Problem.ABSENT, rule, mend)
        if self.data.seq_len > self.context_length:
            rule = f"exceeds model.max_seq_len={self.model.max_seq_len}"
            yield Problem("data.seq_len", self.data.seq_len, rule, "lower it, or raise model.max_seq_len")
        generates = self.kind != "encoder" and self.task.trains != "encoder"
        if generates and not self.context_is_open and self.generation.max_new_tokens >= self.context_length:
            rule = f"leaves no room for a prompt in a context of {self.context_length}"
            mend = f"write at most {self.context_length - 1}"
            yield Problem("generation.max_new_tokens", self.generation.max_new_tokens, rule, mend)
        warmup, steps = self.optimizer.schedule.warmup_steps, self.training.steps
        if warmup > steps and self.training.epochs is None:
            rule = f"exceeds training.steps={steps}"
            mend = f"write at most {steps}, or a warmup_fraction in its place"
            yield Problem("optimizer.schedule.warmup_steps", warmup, rule, mend)
        yield from self._check_batch()

    def _check_batch(self) -> Iterator[Problem]:
        batch, replicas = self.training.global_batch_size, self.distribution.replicas
        share = replicas * (self.training.microbatch_size or 1)
        if batch % share:
            words = f"distribution.num_devices={replicas}"
            if self.training.microbatch_size:
                words += f" x training.microbatch_size={self.training.microbatch_size}"
            near = sorted({max(share, batch // share * share), (batch // share + 1) * share})
            mend = f"try {' or '.join(map(str, near))}"
            yield Problem("training.global_batch_size", batch, f"must be divisible by {words}", mend)
