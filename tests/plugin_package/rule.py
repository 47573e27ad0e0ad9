"""An update rule with a state."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from tfllm.training.update_rules import Rule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signs(Rule):
    name: ClassVar[str] = "signs"
    beta: float = 0.9

    def slots(self, shape):
        return {"mean": shape}

    def remember(self, gradient, slots, moment):
        return {"mean": self.beta * slots["mean"] + (1.0 - self.beta) * gradient}

    def step(self, weight, gradient, old, new, moment):
        return -moment.rate * tf.sign(new["mean"])
