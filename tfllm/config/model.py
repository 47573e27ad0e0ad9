"""The model section: its types, and those that have no file of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

from tfllm.config.errors import Problem
from tfllm.config.registry import Registry
from tfllm.config.setting import setting

MODELS = Registry("model", default="decoder", needs=("source", "vocab_size", "max_seq_len", "kind"))


@MODELS.register("keras_nlp", builds="tfllm.experiment.model:keras_nlp_model")
@dataclasses.dataclass(frozen=True, kw_only=True)
class KerasNlpConfig:
    """A causal or masked language model of KerasHub: a preset, or a backbone with new weights."""

    kind: ClassVar[str | None] = "decoder"
    reads_segments: ClassVar[bool] = False  # it would see from one document of a packed row into another

    type: str = "keras_nlp"
    preset: str | None = setting(
        None, "a preset's name, hf://org/name, kaggle://..., or the folder of a preset"
    )
    backbone: str | None = setting(
        None, "a class of keras_hub.models, such as LlamaBackbone, for new weights"
    )
    arguments: dict[str, Any] = setting({}, "further arguments of the backbone, such as dropout")
    source: str | None = setting(None, "a run folder whose weights are the start")
    vocab_size: int | None = setting(None, "tokens; null: those of the tokenizer or preset", minimum=1)
    max_seq_len: int | None = setting(None, "longest context in tokens; null: data.seq_len", minimum=1)

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        if (self.preset is None) == (self.backbone is None):
            rule = f"and {path}.backbone={self.backbone}: one of both must be given"
            yield Problem(
                f"{path}.preset", self.preset, rule, "a preset has weights, a backbone draws new ones"
            )
        if self.preset is not None and self.vocab_size is not None:
            rule = "is that of the preset"
            yield Problem(f"{path}.vocab_size", self.vocab_size, rule, "leave it out")
        if "vocabulary_size" in self.arguments:
            rule, value = "is set by the tokenizer", self.arguments["vocabulary_size"]
            yield Problem(
                f"{path}.arguments.vocabulary_size", value, rule, f"leave it out, or write {path}.vocab_size"
            )


@MODELS.register("pretrained", builds=None)
@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedConfig:
    """The model of a checkpoint, and its weights as the start; in a run's config it stands as the model it is."""

    kind: ClassVar[str | None] = None  # that of its source

    type: str = "pretrained"
    source: str = setting(
        help="a folder of transformers, a .gguf file, hf://org/name, keras_nlp://preset, or a run folder"
    )
    new_head: bool = setting(False, "draw an output layer of its own instead of taking that of source")
    vocab_size: int | None = setting(
        None,
        "tokens; null: as many as source or its tokenizer has; new ones begin as the mean of the others",
        minimum=1,
    )
    max_seq_len: int | None = setting(None, "longest context in tokens; null: that of source", minimum=1)
    dropout: float = setting(0.0, "share of embedding and residual values dropped", minimum=0.0, below=1.0)
    pooling: str | None = setting(
        None,
        "which tokens a row's vector is made of; null: of an encoder the first, and its pooler behind it; of a decoder"
        " that classifies the last",
        choices=("first", "mean", "last"),
    )
