"""The peft section: what is trained of a model, where that is not all of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

from tfllm.config.errors import Problem
from tfllm.config.registry import Registry
from tfllm.config.setting import setting

PEFT = Registry("peft", needs=("train", "sums"))


_TRAIN = "globs over the paths of variables that are trained besides"
_BASE_DTYPE = "what the frozen matrices of blocks are stored in while training; rounded"
_BASE_DTYPES = ("float32", "bfloat16", "int8")


@PEFT.register("lora", builds="tfllm.peft.lora:Lora")
@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Matrices of low rank beside those of the model, which are frozen (Hu et al. 2021)."""

    sums: ClassVar[bool] = True  # what is added can be added to the matrices for good
    type: str = "lora"
    rank: int = setting(8, "rank of what is added", minimum=1)
    alpha: float = setting(16.0, "what is added is multiplied by alpha / rank", above=0.0)
    dropout: float = setting(0.0, "share of the input that is dropped before it", minimum=0.0, below=1.0)
    targets: tuple[str, ...] = setting(
        ("all",),
        "projections by name, e.g. [query, value], or by glob over their paths; all: those of every block",
    )
    scaling: str = setting(
        "standard", "rslora multiplies by alpha / √rank instead", choices=("standard", "rslora")
    )
    rank_pattern: dict[str, int] = setting(
        {}, "ranks of projections by name or glob, where they are others than rank; the first that fits"
    )
    alpha_pattern: dict[str, float] = setting({}, "the same of alpha")
    train: tuple[str, ...] = setting((), _TRAIN)
    base_dtype: str = setting("float32", _BASE_DTYPE, choices=_BASE_DTYPES)
    source: str | None = setting(
        None, "an adapter to go on from, a folder of PEFT; rank, alpha, targets and the like are its own"
    )

    def check(self, path: str) -> Iterator[Problem]:
        """Yields a list of no target, and numbers that are none."""
        if not self.targets:
            yield Problem(f"{path}.targets", [], "names nothing", "write all, or for example [query, value]")
        for pattern, rank in self.rank_pattern.items():
            if rank < 1:
                yield Problem(f"{path}.rank_pattern.{pattern}", rank, "must be at least 1")
        for pattern, alpha in self.alpha_pattern.items():
            if not alpha > 0:
                yield Problem(f"{path}.alpha_pattern.{pattern}", alpha, "must be above 0.0")


@PEFT.register("adalora", builds="tfllm.peft.adalora:Adalora")
@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaloraConfig:
    """As lora, of ranks that fall while it is trained, where they are worth least (Zhang et al. 2023)."""

    sums: ClassVar[bool] = True
    type: str = "adalora"
    initial_rank: int = setting(12, "rank of what is added, at the start", minimum=1)
    target_rank: int = setting(8, "rank at the end, as a mean over all of it", minimum=1)
    alpha: float = setting(16.0, "what is added is multiplied by alpha / initial_rank", above=0.0)
    dropout: float = setting(0.0, "share of the input that is dropped before it", minimum=0.0, below=1.0)
    targets: tuple[str, ...] = setting(("all",), "projections, as in lora")
    fall_begin: float = setting(0.1, "share of the training behind which ranks fall", minimum=0.0, below=1.0)
    fall_end: float = setting(0.7, "share of it behind which they stay", above=0.0, maximum=1.0)
    every: int = setting(1, "updates between two choices of what stays", minimum=1)
    beta_1: float = setting(0.85, "decay of the mean of a weight's worth", minimum=0.0, below=1.0)
    beta_2: float = setting(0.85, "decay of how much that varies", minimum=0.0, below=1.0)
    orthogonality: float = setting(0.5, "coefficient of the penalty that keeps directions apart", minimum=0.0)
    train: tuple[str, ...] = setting((), _TRAIN)
    base_dtype: str = setting("float32", _BASE_DTYPE, choices=_BASE_DTYPES)

    def check(self, path: str) -> Iterator[Problem]:
        """Yields ranks that rise, and a fall that ends before it begins."""
        if not self.targets:
            yield Problem(f"{path}.targets", [], "names nothing", "write all, or for example [query, value]")
        if self.target_rank > self.initial_rank:
            rule = f"exceeds {path}.initial_rank={self.initial_rank}, from which ranks fall"
            yield Problem(f"{path}.target_rank", self.target_rank, rule, "write less")
        if self.fall_end <= self.fall_begin:
            rule = f"must be more than {path}.fall_begin={self.fall_begin}"
            yield Problem(f"{path}.fall_end", self.fall_end, rule)


@PEFT.register("adapters", builds="tfllm.peft.adapters:Adapters")
@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptersConfig:
    """Narrow networks behind attention and feed-forward of every block, whose own weights are frozen (Houlsby 2019)."""

    sums: ClassVar[bool] = False
    type: str = "adapters"
    width: int = setting(64, "width inside", minimum=1)
    activation: str = setting("gelu", "function inside", choices=("gelu", "gelu_tanh", "relu", "silu"))
    train: tuple[str, ...] = setting((), _TRAIN + ', such as "*norm*", which Houlsby et al. train')
    base_dtype: str = setting("float32", _BASE_DTYPE, choices=_BASE_DTYPES)


@PEFT.register("freeze", builds="tfllm.peft.freeze:Freeze")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FreezeConfig:
    """A part of the model as it is; the rest is trained."""

    sums: ClassVar[bool] = True
    type: str = "freeze"
    first_layers: int = setting(0, "freeze the embeddings and that many blocks behind them", minimum=0)
    patterns: tuple[str, ...] = setting((), "globs over the paths of variables that are frozen")
    train: tuple[str, ...] = setting((), "globs over the paths of such that are trained all the same")

    @property
    def holds_embeddings(self) -> bool:
        """Whether the embeddings are among what is frozen."""
        return self.first_layers > 0 or any(
            "embedding" in pattern or pattern == "*" for pattern in self.patterns
        )

    def check(self, path: str) -> Iterator[Problem]:
        """Yields a section that freezes nothing."""
        if not self.first_layers and not self.patterns:
            rule, mend = "freezes nothing", "write first_layers: n, or patterns"
            yield Problem(f"{path}.first_layers", 0, rule, mend)
