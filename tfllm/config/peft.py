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


@PEFT.register("adapters", builds="tfllm.peft.adapters:Adapters")
@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptersConfig:
    """Narrow networks behind attention and feed-forward of every block, whose own weights are frozen (Houlsby 2019)."""

    sums: ClassVar[bool] = False
    type: str = "adapters"
    width: int = setting(64, "width inside", minimum=1)
    activation: str = setting("gelu", "function inside", choices=("gelu", "gelu_tanh", "relu", "silu"))
    train: tuple[str, ...] = setting((), _TRAIN + ', such as "*norm*", which Houlsby et al. train')


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
