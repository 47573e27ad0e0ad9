"""The course of the learning rate: warm-up, then constant, linear, cosine or WSD."""

from __future__ import annotations

import math

import keras
import tensorflow as tf


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise from zero, then a course that a subclass draws.

    Args:
        peak: Learning rate after the rise.
        total_steps: Updates in the whole run.
        warmup_steps: Updates of the rise; update 0 already gets `peak / warmup_steps`.
        warmup_fraction: Share of `total_steps` that rises, to the nearest update and one at least; None: as
            `warmup_steps` says.
        final_fraction: Share of the peak reached at the end.
    """

    def __init__(
        self,
        *,
        peak: float,
        total_steps: int,
        warmup_steps: int = 0,
        warmup_fraction: float | None = None,
        final_fraction: float = 0.0,
    ):
        if warmup_fraction is not None:
            warmup_steps = max(1, round(warmup_fraction * total_steps))
        self.peak = peak
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.final_fraction = final_fraction

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate of update `step`, counted from 0; float32 scalar."""
        step = tf.cast(step, tf.float32)
        rise = tf.minimum(1.0, (step + 1.0) / max(1, self.warmup_steps))
        start = self.start
        progress = tf.clip_by_value((step - start) / max(1, self.total_steps - start), 0.0, 1.0)
        return self.peak * rise * (1.0 - (1.0 - self.final_fraction) * self.fall(progress))

    @property
    def start(self) -> int:
        """The update from which it falls."""
        return self.warmup_steps

    def fall(self, progress: tf.Tensor) -> tf.Tensor | float:
        """How much of the way down is done, from 0 to 1, when `progress` of the time for it has passed."""
        raise NotImplementedError

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return dict(vars(self))


@keras.saving.register_keras_serializable(package="tfllm")
class Constant(Schedule):
    """Stays at the peak; otherwise as `Schedule`."""

    def fall(self, progress):
        """Never."""
        return 0.0


@keras.saving.register_keras_serializable(package="tfllm")
class Linear(Schedule):
    """Falls in a straight line to the end of training; otherwise as `Schedule`."""

    def fall(self, progress):
        """As much as has passed."""
        return progress


@keras.saving.register_keras_serializable(package="tfllm")
class Cosine(Schedule):
    """Falls along half a cosine to the end of training (Loshchilov & Hutter 2017); otherwise as `Schedule`."""

    def fall(self, progress):
        """Slowly at both ends."""
        return 0.5 * (1.0 - tf.cos(math.pi * progress))


@keras.saving.register_keras_serializable(package="tfllm")
class WSD(Schedule):
    """Stays, then falls in a straight line (Hu et al. 2024); otherwise as `Schedule`.

    Args:
        decay_fraction: Share of `total_steps` spent falling.
    """

    def __init__(self, *, decay_fraction: float = 0.2, **arguments):
        super().__init__(**arguments)
        self.decay_fraction = decay_fraction

    @property
    def start(self) -> int:
        """The update from which it falls."""
        return max(self.warmup_steps, round(self.total_steps * (1.0 - self.decay_fraction)))

    def fall(self, progress):
        """As much as has passed."""
        return progress
