"""The arithmetic of each optimizer: one variable, one step, no state of its own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import keras
import tensorflow as tf

from tfllm.training.norms import global_norm

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


class Rules(Protocol):
    """What gives every variable its rule."""

    def rules(self, variables: Sequence[keras.Variable]) -> list[Rule]:
        """The rule of each variable."""
        ...


class Rule:
    """How the slots of a weight remember a gradient, and how the weight steps by them.

    Weight decay is not the rule's business but where it says so: the optimizer takes `rate * decay` of the
    weight off, whatever the gradient (Loshchilov & Hutter 2019).
    """

    name: ClassVar[str]
    owns_decay: ClassVar[bool] = False  # the step holds the decay already

    def rules(self, variables: Sequence[keras.Variable]) -> list[Rule]:
        """The rule of each variable: this one."""
        return [self] * len(variables)

    def slots(self, shape: Shape) -> dict[str, Shape]:
        """Names and shapes of the float32 tensors kept for a variable; they start at zero."""
        raise NotImplementedError

    def remember(self, gradient: tf.Tensor, slots: Slots, moment: Moment) -> dict[str, tf.Tensor]:
        """The new slots.

        Args:
            gradient: float32, of the weight's shape.
            slots: By name, as `slots` declares them.
            moment: Learning rate, decay and count.
        """
        raise NotImplementedError

    def step(
        self, weight: tf.Tensor, gradient: tf.Tensor, old: Slots, new: Slots, moment: Moment
    ) -> tf.Tensor:
        """What to add to the weight.

        Args:
            weight: float32.
            gradient: float32, of the weight's shape.
            old: The slots before.
            new: What `remember` made of them.
            moment: Learning rate, decay and count.
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

    def remember(self, gradient, slots, moment):
        """v ← μ v - η g."""
        return {name: self.momentum * v - moment.rate * gradient for name, v in slots.items()}

    def step(self, weight, gradient, old, new, moment):
        """-η g without momentum; v with; μ v - η g with Nesterov's."""
        if not self.momentum:
            return -moment.rate * gradient
        velocity = new["velocity"]
        return self.momentum * velocity - moment.rate * gradient if self.nesterov else velocity


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

    def remember(self, gradient, slots, moment):
        """m ← β₁ m + (1-β₁) g; v ← β₂ v + (1-β₂) g²."""
        return _moments(self, gradient, slots)

    def step(self, weight, gradient, old, new, moment):
        """-η √(1-β₂ᵗ)/(1-β₁ᵗ) m / (√v + ε)."""
        size = tf.sqrt(_corrected(self.beta_2, moment.count)) / _corrected(self.beta_1, moment.count)
        return (-moment.rate * size) * new["mean"] / (tf.sqrt(new["square"]) + self.epsilon)


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

    def remember(self, gradient, slots, moment):
        """m ← β₂ m + (1-β₂) g."""
        return {"mean": self.beta_2 * slots["mean"] + (1.0 - self.beta_2) * gradient}

    def step(self, weight, gradient, old, new, moment):
        """-η sign(β₁ m + (1-β₁) g), m before the gradient entered it."""
        return -moment.rate * tf.sign(self.beta_1 * old["mean"] + (1.0 - self.beta_1) * gradient)


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

    def remember(self, gradient, slots, moment):
        """Means of g² + ε₁, with the decay 1 - t**decay_exponent."""
        square, keep = tf.square(gradient) + self.epsilon, 1.0 - tf.pow(moment.count, self.decay_exponent)
        means = {"square": square}
        if "row" in slots:
            means = {"row": tf.reduce_mean(square, axis=-1), "column": tf.reduce_mean(square, axis=-2)}
        return {name: keep * slots[name] + (1.0 - keep) * mean for name, mean in means.items()}

    def step(self, weight, gradient, old, new, moment):
        """-max(ε₂, rms(w)) ρ u / max(1, rms(u)/d), u = g / √v (algorithm 4), w decayed already."""
        step = gradient * tf.math.rsqrt(_from_factors(new))
        size = _root_mean_square(weight) * tf.abs(1.0 - moment.rate * moment.decay)
        rate = tf.minimum(moment.rate, tf.math.rsqrt(moment.count)) if self.relative_step else moment.rate
        rate = rate * tf.maximum(self.smallest_scale, size)
        return -rate / tf.maximum(1.0, _root_mean_square(step) / self.clip_threshold) * step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lamb(Rule):
    """LAMB (You et al. 2020, algorithm 2): Adam's step, made as long as the weight it changes.

    Weight decay is part of the step before its length is taken, as in the paper; Keras decays apart.

    Args:
        beta_1: Decay of the mean.
        beta_2: Decay of the square.
        epsilon: Added to the root of the square, after the bias is corrected.
    """

    name: ClassVar[str] = "lamb"
    owns_decay: ClassVar[bool] = True

    def rules(self, variables: Sequence[keras.Variable]) -> list[Rule]:
        """The rule of each variable: this one."""
        return [self] * len(variables)

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-6

    def slots(self, shape: Shape) -> dict[str, Shape]:
        """Mean and square of the gradient."""
        return {"mean": shape, "square": shape}

    def remember(self, gradient, slots, moment):
        """m ← β₁ m + (1-β₁) g; v ← β₂ v + (1-β₂) g²."""
        return _moments(self, gradient, slots)

    def step(self, weight, gradient, old, new, moment):
        """-η ‖w‖/‖u‖ u, u = m̂ / (√v̂ + ε) + λ w; 1 for the ratio where a norm is 0."""
        root = tf.sqrt(new["square"] / _corrected(self.beta_2, moment.count)) + self.epsilon
        step = new["mean"] / _corrected(self.beta_1, moment.count) / root + moment.decay * weight
        weight_norm, step_norm = global_norm([weight]), global_norm([step])
        ratio = tf.where((weight_norm > 0) & (step_norm > 0), weight_norm / step_norm, 1.0)
        return -moment.rate * ratio * step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Muon(Rule):
    """Muon (Jordan et al. 2024): the momentum of a matrix, made orthogonal. For matrices inside blocks.

    The step has the singular vectors of the momentum and singular values near 1, found by the paper's
    quintic Newton-Schulz iteration. It is scaled by 0.2 √(longer side) (Liu et al. 2025, Moonlight), which
    gives it the root mean square AdamW's steps have, so one learning rate and one decay suit both.

    For n ≤ m the iteration costs `ns_steps * (4 n²m + 2 n³)` FLOPs a matrix, whatever the batch. Its
    products are float32, which on recent GPUs means TF32.

    Args:
        momentum: Decay of the momentum.
        nesterov: Look ahead along the momentum.
        ns_steps: Steps of the iteration.
    """

    name: ClassVar[str] = "muon"
    momentum: float = 0.95
    nesterov: bool = True
    ns_steps: int = 5

    def slots(self, shape: Shape) -> dict[str, Shape]:
        """The momentum."""
        return {"momentum": shape}

    def remember(self, gradient, slots, moment):
        """b ← μ b + g."""
        return {"momentum": self.momentum * slots["momentum"] + gradient}

    def step(self, weight, gradient, old, new, moment):
        """-0.2 √max(n, m) η orthogonal(g + μ b)."""
        momentum = new["momentum"]
        direction = gradient + self.momentum * momentum if self.nesterov else momentum
        scale = 0.2 * math.sqrt(max(weight.shape))
        return -moment.rate * scale * orthogonalized(direction, num_steps=self.ns_steps)


def orthogonalized(x: tf.Tensor, *, num_steps: int = 5) -> tf.Tensor:
    """Roughly U Vᵀ of a matrix U S Vᵀ, its singular values between about 0.7 and 1.2 (Jordan et al. 2024).

    Args:
        x: float32 [n, m].
        num_steps: Steps of the Newton-Schulz iteration.

    Returns:
        float32 [n, m].
    """
    tall = x.shape[0] > x.shape[1]
    x = tf.transpose(x) if tall else x
    x = x / (global_norm([x]) + 1e-7)
    for _ in range(num_steps):
        gram = tf.matmul(x, x, transpose_b=True)
        x = 3.4445 * x + tf.matmul(-4.7750 * gram + 2.0315 * tf.matmul(gram, gram), x)
    return tf.transpose(x) if tall else x


def _moments(rule: AdamW | Lamb, gradient: tf.Tensor, slots: Slots) -> dict[str, tf.Tensor]:
    mean, square = slots["mean"], slots["square"]
    return {
        "mean": mean + (1.0 - rule.beta_1) * (gradient - mean),
        "square": square + (1.0 - rule.beta_2) * (tf.square(gradient) - square),
    }


def _corrected(beta: float, count: tf.Tensor) -> tf.Tensor | float:
    """1 - beta ** count; so written, float32 loses no digits where beta is near 1."""
    return -tf.math.expm1(count * math.log(beta)) if beta else 1.0


def _from_factors(slots: Slots) -> tf.Tensor:
    if "square" in slots:
        return slots["square"]
    share = slots["row"] / tf.reduce_mean(slots["row"], axis=-1, keepdims=True)
    return share[..., None] * slots["column"][..., None, :]


def _root_mean_square(x: tf.Tensor) -> tf.Tensor:
    return global_norm([x]) / math.sqrt(max(1, x.shape.num_elements()))
