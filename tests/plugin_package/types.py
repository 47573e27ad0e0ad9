"""What the key `plugins` names. It imports no TensorFlow: what builds things is imported when they are built."""

import dataclasses
from typing import ClassVar

from tfllm.config import setting
from tfllm.config.data import SOURCES
from tfllm.config.model import MODELS
from tfllm.config.optimizer import OPTIMIZERS, OptimizerConfig


@SOURCES.register("doors", builds="tests.plugin_package.source:DoorsSource")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DoorsConfig:
    """Sentences about doors."""

    type: str = "doors"
    count: int = setting(100, "how many sentences", minimum=1)


@OPTIMIZERS.register("signs", builds="tests.plugin_package.rule:Signs")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SignsConfig(OptimizerConfig):
    """Steps of one length, along the signs of the mean gradient."""

    type: str = "signs"
    beta: float = setting(0.9, "decay of the mean", minimum=0.0, below=1.0)


@MODELS.register("fading", builds="tests.plugin_package.model:Fading")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FadingConfig:
    """A model that remembers a token the less, the longer ago it was."""

    kind: ClassVar[str | None] = "decoder"
    reads_segments: ClassVar[bool] = False

    type: str = "fading"
    source: str | None = setting(None, "a run folder whose weights are the start")
    vocab_size: int | None = setting(None, "tokens; null: those of the tokenizer", minimum=1)
    max_seq_len: int | None = setting(None, "longest context in tokens; null: data.seq_len", minimum=1)
    hidden_dim: int = setting(16, "width", minimum=1)
    memory: float = setting(0.8, "what is left of a token when the next comes", minimum=0.0, below=1.0)
