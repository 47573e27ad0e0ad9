"""The optimizer section and its schedules."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from tfllm.config.errors import Problem
from tfllm.config.registry import Registry
from tfllm.config.setting import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """What every schedule has."""

    type: str = "?"
    warmup_steps: int = setting(0, "steps of linear rise from 0", minimum=0)
    warmup_fraction: float | None = setting(
        None, "share of all steps that rise, in the place of warmup_steps", above=0.0, maximum=1.0
    )

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        if self.warmup_steps and self.warmup_fraction is not None:
            rule = f"says what warmup_steps={self.warmup_steps} says otherwise"
            yield Problem(
                f"{path}.warmup_fraction", self.warmup_fraction, rule, "write null here, or leave that out"
            )


SCHEDULES = Registry(
    "schedule", default="cosine", needs=[field.name for field in dataclasses.fields(ScheduleConfig)]
)


@SCHEDULES.register("constant", builds="tfllm.training.schedules:Constant")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ConstantConfig(ScheduleConfig):
    """Warm up, then stay."""

    type: str = "constant"


@SCHEDULES.register("linear", builds="tfllm.training.schedules:Linear")
@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearConfig(ScheduleConfig):
    """Warm up, then fall in a straight line to the end of training."""

    type: str = "linear"
    final_fraction: float = setting(0.0, "share of the peak at the end", minimum=0.0, maximum=1.0)


@SCHEDULES.register("cosine", builds="tfllm.training.schedules:Cosine")
@dataclasses.dataclass(frozen=True, kw_only=True)
class CosineConfig(ScheduleConfig):
    """Warm up, then fall along half a cosine to the end of training."""

    type: str = "cosine"
    final_fraction: float = setting(0.1, "share of the peak at the end", minimum=0.0, maximum=1.0)


@SCHEDULES.register("wsd", builds="tfllm.training.schedules:WSD")
@dataclasses.dataclass(frozen=True, kw_only=True)
class WSDConfig(ScheduleConfig):
    """Warm up, stay, then fall in a straight line over the last `decay_fraction` of training."""

    type: str = "wsd"
    decay_fraction: float = setting(0.2, "share of the steps spent falling", above=0.0, maximum=1.0)
    final_fraction: float = setting(0.0, "share of the peak at the end", minimum=0.0, maximum=1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupConfig:
    """Variables with settings of their own; where several groups match one, the first rules it."""

    pattern: str = setting(help="glob over variable paths, e.g. decoder/block_0[0-3]/*")
    learning_rate_scale: float = setting(1.0, "their learning rate over everybody's", above=0.0)
    weight_decay: float | None = setting(
        None, "their weight decay, norms and biases excepted; null: as everybody's", minimum=0.0
    )
    freeze: bool = setting(False, "do not train them")

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        if self.freeze and (self.learning_rate_scale != 1.0 or self.weight_decay is not None):
            rule = "leaves nothing for learning_rate_scale or weight_decay to change"
            yield Problem(f"{path}.freeze", True, rule, "write one or the other")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """What every optimizer has; a type adds the keys of its own rule."""

    type: str = "?"
    learning_rate: float = setting(1e-3, "peak learning rate", above=0.0)
    schedule: Any = setting("cosine", "course of the learning rate", registry=SCHEDULES)
    clip_norm: float | None = setting(1.0, "largest global gradient norm; null: no clipping", above=0.0)
    weight_decay: float = setting(0.1, "decoupled decay a unit of learning rate", minimum=0.0)
    decay_embeddings: bool = setting(False, "apply weight decay to embeddings too")
    groups: tuple[GroupConfig, ...] = setting((), "variables with settings of their own, or frozen")
    layer_decay: float = setting(
        1.0, "each block's learning rate over that of the block above it", above=0.0, maximum=1.0
    )
    ema_decay: float | None = setting(
        None, "decay of a moving average of the weights; null: none is kept", above=0.0, below=1.0
    )
    skip_above: float | None = setting(
        None, "a step whose gradient norm is larger is skipped and counted; null: none is", above=0.0
    )


OPTIMIZERS = Registry(
    "optimizer", default="adamw", needs=[field.name for field in dataclasses.fields(OptimizerConfig)]
)


@OPTIMIZERS.register("adamw", builds="tfllm.training.update_rules:AdamW")
@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamWConfig(OptimizerConfig):
    """AdamW (Loshchilov & Hutter 2019)."""

    type: str = "adamw"
    beta_1: float = setting(0.9, "decay of the mean", minimum=0.0, below=1.0)
    beta_2: float = setting(0.95, "decay of the square", minimum=0.0, below=1.0)
    epsilon: float = setting(1e-8, "added to the root of the square", above=0.0)


@OPTIMIZERS.register("lion", builds="tfllm.training.update_rules:Lion")
@dataclasses.dataclass(frozen=True, kw_only=True)
class LionConfig(OptimizerConfig):
    """Lion (Chen et al. 2023); wants a learning rate 3 to 10 times smaller than AdamW."""

    type: str = "lion"
    beta_1: float = setting(0.9, "decay in the update", minimum=0.0, below=1.0)
    beta_2: float = setting(0.99, "decay of the mean", minimum=0.0, below=1.0)


@OPTIMIZERS.register("adafactor", builds="tfllm.training.update_rules:Adafactor")
@dataclasses.dataclass(frozen=True, kw_only=True)
class AdafactorConfig(OptimizerConfig):
    """Adafactor (Shazeer & Stern 2018): square statistics by row and column only."""

    type: str = "adafactor"
    relative_step: bool = setting(False, "Adafactor's own scaling of the learning rate by the step")


@OPTIMIZERS.register("sgd", builds="tfllm.training.update_rules:SGD")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SGDConfig(OptimizerConfig):
    """Stochastic gradient descent."""

    type: str = "sgd"
    momentum: float = setting(0.0, "decay of the velocity", minimum=0.0, below=1.0)
    nesterov: bool = setting(False, "look ahead along the velocity")


@OPTIMIZERS.register("lamb", builds="tfllm.training.update_rules:Lamb")
@dataclasses.dataclass(frozen=True, kw_only=True)
class LambConfig(OptimizerConfig):
    """LAMB (You et al. 2020), for large batches: Adam's step, made as long as the weight it changes."""

    type: str = "lamb"
    beta_1: float = setting(0.9, "decay of the mean", minimum=0.0, below=1.0)
    beta_2: float = setting(0.999, "decay of the square", minimum=0.0, below=1.0)
    epsilon: float = setting(1e-6, "added to the root of the square", above=0.0)


@OPTIMIZERS.register("muon", builds="tfllm.training.optimizers:MuonAndAdamW")
@dataclasses.dataclass(frozen=True, kw_only=True)
class MuonConfig(OptimizerConfig):
    """Muon (Jordan et al. 2024) for matrices inside blocks; AdamW for embeddings, output, norms and biases.

    Muon's steps are scaled as Moonlight does (Liu et al. 2025), so one learning rate and one decay, as
    for AdamW, suit both.
    """

    type: str = "muon"
    momentum: float = setting(0.95, "decay of the momentum (Muon)", minimum=0.0, below=1.0)
    nesterov: bool = setting(True, "look ahead along the momentum (Muon)")
    ns_steps: int = setting(5, "steps of the iteration that makes it orthogonal (Muon)", minimum=1)
    beta_1: float = setting(0.9, "decay of the mean (AdamW)", minimum=0.0, below=1.0)
    beta_2: float = setting(0.95, "decay of the square (AdamW)", minimum=0.0, below=1.0)
    epsilon: float = setting(1e-8, "added to the root of the square (AdamW)", above=0.0)
