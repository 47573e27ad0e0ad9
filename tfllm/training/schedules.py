"""The course of the learning rate: warm-up, then constant, linear, cosine or WSD."""

from __future__ import annotations

import math

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="tfllm")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise from zero, then one of four courses.

    Args:
        kind: constant; linear or cosine (Loshchilov & Hutter 2017) to the end of training; or wsd
            (Hu et al. 2024): flat, then linear over the last `decay_fraction` of the steps.
        peak: Learning rate after the rise.
        total_steps: Updates in the whole run.
        warmup_steps: Updates of the rise; update 0 already gets `peak / warmup_steps`.
        final_fraction: Share of the peak reached at the end.
        decay_fraction: Share of `total_steps` spent falling (wsd).
    """

    def __init__(
        self,
        *,
        kind: str,
        peak: float,
        total_steps: int,
        warmup_steps: int = 0,
        final_fraction: float = 0.0,
        decay_fraction: float = 0.2,
    ):
        if kind not in ("constant", "linear", "cosine", "wsd"):
            raise ValueError(f"schedule kind={kind!r} is not known; use constant, linear, cosine or wsd")
        self.kind = kind
        self.peak = peak
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.final_fraction = final_fraction
        self.decay_fraction = decay_fraction

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate of update `step`, counted from 0; float32 scalar."""
        step = tf.cast(step, tf.float32)
        rise = tf.minimum(1.0, (step + 1.0) / max(1, self.warmup_steps))
        start = self.warmup_steps
        if self.kind == "wsd":
            start = max(start, round(self.total_steps * (1.0 - self.decay_fraction)))
        progress = tf.clip_by_value((step - start) / max(1, self.total_steps - start), 0.0, 1.0)
        fall = {
            "constant": lambda: 0.0,
            "linear": lambda: progress,
            "wsd": lambda: progress,
            "cosine": lambda: 0.5 * (1.0 - tf.cos(math.pi * progress)),
        }[self.kind]()
        return self.peak * rise * (1.0 - (1.0 - self.final_fraction) * fall)

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return dict(vars(self))
