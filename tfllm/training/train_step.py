"""One optimizer update, the same on one device and on many."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.training.loss_scale import SMALLEST, LossScale
from tfllm.training.norms import global_norm
from tfllm.training.optimizers import Optimizer

# A step's numbers, in the order of the vector that it returns. Sums are over the global batch.
METRICS = (
    "loss_sum",
    "weight_sum",
    "real_tokens",  # positions that hold text
    "positions",  # positions computed, padding included
    "stop",  # replicas whose process was asked to stop
    "grad_norm",
    "learning_rate",
    "update_ratio",  # norm of the update over norm of the weights
    "loss_scale",
    "skipped",  # 1: the weights stayed as they were, on purpose
    "failed",  # 1: the weights stayed as they were, because a number was not finite
)
_NUM_SUMS = 5


class TrainStep:
    """Forward, loss as sum and weight, gradients, one reduction, clip, update.

    The order matters: gradients of the loss SUM are added over microbatches and replicas, divided once by
    the global weight, and only then clipped. So N replicas or k microbatches compute what one device
    with the whole batch would, with clipping on and uneven weights.

    A step whose gradient is not finite, or larger than `skip_above`, leaves weights and optimizer as they
    are, on every replica alike.

    Args:
        model: A model that keeps the features-to-outputs contract.
        task: Gives `loss(model, features, outputs) -> (loss_sum, weight_sum)`.
        optimizer: From `make_optimizer`: it neither clips nor sums over replicas.
        strategy: The strategy the model and the optimizer were made under.
        clip_norm: Largest global gradient norm; None does not clip.
        skip_above: Largest global gradient norm that is applied at all; None applies every finite one.
        num_microbatches: Parts a replica's share of the batch is computed in.
        loss_scale: For float16: scales the loss, and makes an overflow a skipped step.
        jit_compile: Compile with XLA: the whole step on one device, what comes before and after the sum
            over replicas on several.
    """

    def __init__(
        self,
        *,
        model: Any,
        task: Any,
        optimizer: Optimizer,
        strategy: tf.distribute.Strategy,
        clip_norm: float | None = None,
        skip_above: float | None = None,
        num_microbatches: int = 1,
        loss_scale: LossScale | None = None,
        jit_compile: bool = True,
    ):
        self.model = model
        self.task = task
        self.optimizer = optimizer
        self.strategy = strategy
        self.clip_norm = clip_norm
        self.skip_above = skip_above
        self.num_microbatches = num_microbatches
        self.loss_scale = loss_scale
        self._replicated = strategy.num_replicas_in_sync > 1
        parts = (self._accumulate, self._update)
        if jit_compile and self._replicated:
            parts = tuple(tf.function(part, jit_compile=True) for part in parts)
        self._compute, self._apply = parts
        whole = jit_compile and not self._replicated
        self._step = tf.function(self._replica_step, jit_compile=True) if whole else self._replica_step

    def __call__(self, features: Any, stop: tf.Tensor | float = 0.0) -> tf.Tensor:
        """Takes one step, in a graph.

        Args:
            features: A batch from the (distributed) iterator.
            stop: float32, 1 when this process was asked to stop; the sum tells every other one.

        Returns:
            float32 [11], in the order of `METRICS`.
        """
        metrics = self.strategy.run(self._step, args=(features, tf.convert_to_tensor(stop)))
        return self.strategy.experimental_local_results(metrics)[0]

    def _replica_step(self, features: dict[str, tf.Tensor], stop: tf.Tensor) -> tf.Tensor:
        sums, gradients = self._compute(features)
        sums = tf.concat([sums, [stop]], axis=0)
        sums, *gradients = self._sum_over_replicas([sums, *gradients])
        return self._apply(sums, gradients)

    def _accumulate(self, features: dict[str, tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Sums over this replica's microbatches: float32 [4] as in `METRICS`, and the gradients."""
        count = self.num_microbatches
        if count == 1:
            return self._gradients(features)
        parts = {name: _split(x, count) for name, x in features.items()}
        zeros = [tf.zeros(v.shape, tf.float32) for v in self.optimizer.trainable]

        def body(index, sums, totals):
            more, gradients = self._gradients({name: x[index] for name, x in parts.items()})
            totals = [total + gradient for total, gradient in zip(totals, gradients, strict=True)]
            return index + 1, sums + more, totals

        start = (tf.constant(0), tf.zeros([_NUM_SUMS - 1]), zeros)
        _, sums, totals = tf.while_loop(
            lambda index, *_: index < count, body, start, maximum_iterations=count
        )
        return sums, totals

    def _gradients(self, features: dict[str, tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        multiplier = None
        if self.loss_scale is not None:
            multiplier = self.loss_scale.multiplier(tf.size(features["token_ids"]))
        with tf.GradientTape() as tape:
            outputs = self.model(features, training=True)
            loss_sum, weight_sum = self.task.loss(self.model, features, outputs)
            target = loss_sum if multiplier is None else loss_sum * multiplier
        gradients = tape.gradient(
            target,
            [v.value for v in self.optimizer.trainable],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        gradients = [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradients]
        if multiplier is not None:
            gradients = [gradient / multiplier for gradient in gradients]
        return tf.stack([loss_sum, weight_sum, *_count_tokens(features)]), gradients

    def _sum_over_replicas(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        if not self._replicated:
            return tensors
        # Tensors that carry no device have no destination to be reduced to.
        devices = self.strategy.extended.worker_devices
        if len(devices) == 1:
            with tf.device(devices[0]):
                tensors = [tf.identity(tensor) for tensor in tensors]
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensors)

    def _update(self, sums: tf.Tensor, gradients: list[tf.Tensor]) -> tf.Tensor:
        """Divides, clips and applies what was summed over all replicas; the same on each of them."""
        weight_sum = sums[METRICS.index("weight_sum")]
        scale = tf.math.reciprocal_no_nan(weight_sum)
        norm = global_norm(gradients) * scale
        finite = tf.math.is_finite(norm)
        good_loss = tf.math.is_finite(sums[METRICS.index("loss_sum")])
        applied = finite & good_loss
        applied = applied if self.skip_above is None else applied & (norm <= self.skip_above)
        rate = tf.cast(self.optimizer.learning_rate, tf.float32)
        if self.clip_norm is not None:
            scale = scale * self.clip_norm / tf.maximum(norm, self.clip_norm)
        gradients = [gradient * scale for gradient in gradients]
        update_norm, weight_norm = self.optimizer.apply(gradients, applied=applied)
        ratio = tf.math.divide_no_nan(update_norm, weight_norm)
        failed = ~good_loss
        loss_scale = tf.constant(1.0)
        if self.loss_scale is None:
            failed = failed | ~finite
        else:
            loss_scale = self.loss_scale.update(finite)
            failed = failed | (loss_scale < SMALLEST)
        flags = [tf.cast(flag, tf.float32) for flag in (~applied & ~failed, failed)]
        return tf.concat([sums, tf.stack([norm, rate, ratio, loss_scale, *flags])], axis=0)


def metrics_by_name(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Names the columns of float [n, 11]: a float64 [n] for each of `METRICS`."""
    return dict(zip(METRICS, np.asarray(rows, np.float64).T, strict=True))


def _count_tokens(features: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Positions that hold text, and all positions, float32; a batch without segments or mask is all text."""
    positions = tf.cast(tf.size(features["token_ids"]), tf.float32)
    if "segment_ids" in features:
        return tf.cast(tf.math.count_nonzero(features["segment_ids"]), tf.float32), positions
    if "padding_mask" in features:
        return tf.cast(tf.math.count_nonzero(features["padding_mask"]), tf.float32), positions
    return positions, positions


def _split(x: tf.Tensor, count: int) -> tf.Tensor:
    shape = tf.shape(x)  # [B, ...] -> [count, B / count, ...]
    return tf.reshape(x, tf.concat([[count, shape[0] // count], shape[1:]], axis=0))
