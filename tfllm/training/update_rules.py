"""The arithmetic of each optimizer: one variable, one step, no state of its own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import tensorflow as tf

Slots = Mapping[str, tf.Tensor]
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Moment:
    """What scales one update of one variable.

    Args:
        rate: Learning rate, float32 scalar.
        decay: Weight decay a unit of learning rate.
        count: float32 scalar: 1 at the first update, 2 at the second.
    """

    rate: tf.Tensor
    decay: float
    count: tf.Tensor


class Rule:
    """How a weight and its slots change by a gradient.

    Every rule decouples weight decay from the gradient (Loshchilov & Hutter 2019): the weight shrinks by
    `rate * decay` of itself, whatever the gradient.
    """

    name: ClassVar[str]

    def slots(self, shape: Shape) -> dict[str, Shape]:
        """Names and shapes of the float32 tensors kept for a variable; they start at zero."""
        raise NotImplementedError

    def update(
        self, weight: tf.Tensor, gradient: tf.Tensor, slots: Slots, moment: Moment
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """One step.

        Args:
            weight: float32.
            gradient: float32, of the weight's shape.
            slots: By name, as `slots` declares them.
            moment: Learning rate, decay and count.

        Returns:
            The new weight and the new slots.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD(Rule):
    """Stochastic gradient descent; with momentum as Sutskever et al. 2013 write it.

    Args:
        momentum: Decay of the velocity; 0 keeps none.
        nesterov: Look ahead along the velocity.
    """

    name: ClassVar[str] = "sgd"
    momentum: float = 0.0
    nesterov: bool = False

    def slots(self, shape: Shape) -> dict[str, Shape]:
        """The velocity, where there is momentum."""
        return {"velocity": shape} if self.momentum else {}

    def update(self, weight, gradient, slots, moment):
        """v ← μ v - η g; w ← w + v, or w + μ v - η g with Nesterov."""
        weight, pull = _decayed(weight, moment), moment.rate * gradient
        if not self.momentum:
            return weight - pull, {}
        velocity = self.momentum * slots["velocity"] - pull
        step = self.momentum * velocity - pull if self.nesterov else velocity
        return weight + step, {"velocity": velocity}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(Rule):
    """AdamW (Loshchilov & Hutter 2019).

    Epsilon is added to the root before the bias is corrected (Kingma & Ba 2015, end of section 2), as
    Keras does.

    Args:
        beta_1: Decay of the mean.
        beta_2: Decay of the square.
        epsilon: Added to the root of the square.
    """

    name: ClassVar[str] = "adamw"
    beta_1: float = 0.9
    beta_2: float = 0.95
    epsilon: float = 1e-8

    def slots(self, shape: Shape) -> dict[str, Shape]:
        """Mean and square of the gradient."""
        return {"mean": shape, "square": shape}

    def update(self, weight, gradient, slots, moment):
        """m ← β₁ m + (1-β₁) g; v ← β₂ v + (1-β₂) g²; w ← w - η √(1-β₂ᵗ)/(1-β₁ᵗ) m / (√v + ε)."""
        mean, square = _moments(self, gradient, slots)
        size = tf.sqrt(_corrected(self.beta_2, moment.count)) / _corrected(self.beta_1, moment.count)
        step = moment.rate * size * mean / (tf.sqrt(square) + self.epsilon)
        return _decayed(weight, moment) - step, {"mean": mean, "square": square}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lion(Rule):
    """Lion (Chen et al. 2023): the sign of an interpolated mean.

    Args:
        beta_1: Decay in the update.
        beta_2: Decay of the mean.
    """

    name: ClassVar[str] = "lion"
    beta_1: float = 0.9
    beta_2: float = 0.99

    def slots(self, shape: Shape) -> dict[str, Shape]:
        """Mean of the gradient."""
        return {"mean": shape}

    def update(self, weight, gradient, slots, moment):
        """w ← w - η sign(β₁ m + (1-β₁) g); m ← β₂ m + (1-β₂) g."""
        mean = slots["mean"]
        sign = tf.sign(self.beta_1 * mean + (1.0 - self.beta_1) * gradient)
        mean = self.beta_2 * mean + (1.0 - self.beta_2) * gradient
        return _decayed(weight, moment) - moment.rate * sign, {"mean": mean}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor(Rule):
    """Adafactor (Shazeer & Stern 2018), without a mean.

    The last two axes keep their squares by row and by column only. The step is relative to the weight's
    root mean square, and clipped. Unlike Keras, `relative_step=False` takes the learning rate as it is.

    Args:
        relative_step: Let no learning rate exceed 1/√t.
        decay_exponent: Exponent of the decay of the squares, `1 - t ** decay_exponent`.
        epsilon: Added to the squared gradient.
        smallest_scale: Least root mean square a weight is taken to have.
        clip_threshold: Largest root mean square of an update, before the learning rate.
    """

    name: ClassVar[str] = "adafactor"
    relative_step: bool = False
    decay_exponent: float = -0.8
    epsilon: float = 1e-30
    smallest_scale: float = 1e-3
    clip_threshold: float = 1.0

    def slots(self, shape: Shape) -> dict[str, Shape]:
        """Squares by row and by column, or whole for vectors and scalars."""
        if len(shape) < 2:
            return {"square": shape}
        return {"row": shape[:-1], "column": (*shape[:-2], shape[-1])}

    def update(self, weight, gradient, slots, moment):
        """w ← w - max(ε₂, rms(w)) ρ u / max(1, rms(u)/d), u = g / √v (algorithm 4 of the paper)."""
        weight = _decayed(weight, moment)
        keep = 1.0 - tf.pow(moment.count, self.decay_exponent)
        square, slots = self._square(tf.square(gradient) + self.epsilon, slots, keep)
        step = gradient * tf.math.rsqrt(square)
        rate = tf.minimum(moment.rate, tf.math.rsqrt(moment.count)) if self.relative_step else moment.rate
        rate = rate * tf.maximum(self.smallest_scale, _root_mean_square(weight))
        step = step / tf.maximum(1.0, _root_mean_square(step) / self.clip_threshold)
        return weight - rate * step, slots

    def _square(self, square: tf.Tensor, slots: Slots, keep: tf.Tensor):
        if "square" in slots:
            square = keep * slots["square"] + (1.0 - keep) * square
            return square, {"square": square}
        row = keep * slots["row"] + (1.0 - keep) * tf.reduce_mean(square, axis=-1)
        column = keep * slots["column"] + (1.0 - keep) * tf.reduce_mean(square, axis=-2)
        share = row / tf.reduce_mean(row, axis=-1, keepdims=True)
        return share[..., None] * column[..., None, :], {"row": row, "column": column}


def _decayed(weight: tf.Tensor, moment: Moment) -> tf.Tensor:
    return weight * (1.0 - moment.rate * moment.decay) if moment.decay else weight


def _moments(rule, gradient: tf.Tensor, slots: Slots) -> tuple[tf.Tensor, tf.Tensor]:
    mean, square = slots["mean"], slots["square"]
    mean = mean + (1.0 - rule.beta_1) * (gradient - mean)
    return mean, square + (1.0 - rule.beta_2) * (tf.square(gradient) - square)


def _corrected(beta: float, count: tf.Tensor) -> tf.Tensor | float:
    """1 - beta ** count; so written, float32 loses no digits where beta is near 1."""
    return -tf.math.expm1(count * math.log(beta)) if beta else 1.0


def _root_mean_square(x: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(tf.reduce_mean(tf.square(x)))
