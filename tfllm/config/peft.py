"""The peft section: what is trained of a model, where that is not all of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from tfllm.config.errors import Problem
from tfllm.config.registry import Registry
from tfllm.config.setting import setting

PEFT = Registry("peft", needs=("train",))


@PEFT.register("lora", builds="tfllm.peft.lora:Lora")
@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Matrices of low rank beside those of the model, which are frozen (Hu et al. 2021)."""

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
    train: tuple[str, ...] = setting((), "globs over the paths of variables that are trained besides")
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
