"""Dynamic loss scaling: float16 gradients kept within float16's narrow range."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfllm.training.replica import local

INITIAL = 2.0**15
GROWTH_STEPS = 2000  # finite steps before the scale doubles (Micikevicius et al. 2018, section 3.2)
SMALLEST = 2.0**-14  # below it something other than the range is wrong


class LossScale:
    """Multiplies the loss, so that small gradients do not vanish in float16; halves on overflow.

    The gradients are looked at after their sum over replicas: an infinity on one of them is one on all, so
    every replica takes the same decision. Make it under `strategy.scope()`.
    """

    def __init__(self) -> None:
        self.scale = keras.Variable(INITIAL, trainable=False, dtype="float32", name="scale")
        self.good_steps = keras.Variable(0, trainable=False, dtype="int64", name="good_steps")

    @property
    def named_variables(self) -> dict[str, keras.Variable]:
        """Its state, as a checkpoint holds it."""
        return {"scale": self.scale, "good_steps": self.good_steps}

    def multiplier(self, num_tokens: tf.Tensor) -> tf.Tensor:
        """What to multiply a loss SUM by: the scale over the tokens, rounded up to a power of two.

        The scale is made for means; a power of two keeps the division by it exact.

        Args:
            num_tokens: int32 or float32 scalar, positions that the sum goes over.

        Returns:
            float32 scalar.
        """
        doublings = tf.math.ceil(tf.math.log(tf.cast(num_tokens, tf.float32)) / tf.math.log(2.0))
        return local(self.scale) / tf.pow(2.0, tf.round(doublings))

    def update(self, finite: tf.Tensor) -> tf.Tensor:
        """Counts a step, and returns the scale the step had, float32 scalar.

        Args:
            finite: bool scalar, whether the step's summed gradients were.
        """
        scale, good = local(self.scale), local(self.good_steps)
        before, count = tf.identity(scale), good + 1
        grown = count >= GROWTH_STEPS
        scale.assign(tf.where(finite, tf.where(grown, before * 2.0, before), before * 0.5))
        good.assign(tf.where(finite & ~grown, count, tf.constant(0, tf.int64)))
        return before
