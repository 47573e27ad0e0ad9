"""One optimizer update, the same on one device and on many."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfllm.training.optimizers import Optimizer

METRICS = ("loss_sum", "weight_sum", "grad_norm", "learning_rate")


class TrainStep:
    """Forward, loss as sum and weight, gradients, one reduction, clip, update.

    The order matters: gradients of the loss SUM are added over microbatches and replicas, divided once by
    the global weight, and only then clipped. So N replicas or k microbatches compute what one device
    with the whole batch would, with clipping on and uneven weights.

    Args:
        model: A model that keeps the features-to-outputs contract.
        task: Gives `loss(model, features, outputs) -> (loss_sum, weight_sum)`.
        optimizer: From `make_optimizer`: it neither clips nor sums over replicas.
        strategy: The strategy the model and the optimizer were made under.
        clip_norm: Largest global gradient norm; None does not clip.
        num_microbatches: Parts a replica's share of the batch is computed in.
        jit_compile: Compile with XLA: the whole step on one device, forward and backward on several.
    """

    def __init__(
        self,
        *,
        model: Any,
        task: Any,
        optimizer: Optimizer,
        strategy: tf.distribute.Strategy,
        clip_norm: float | None = None,
        num_microbatches: int = 1,
        jit_compile: bool = True,
    ):
        self.model = model
        self.task = task
        self.optimizer = optimizer
        self.strategy = strategy
        self.clip_norm = clip_norm
        self.num_microbatches = num_microbatches
        self._replicated = strategy.num_replicas_in_sync > 1
        whole = jit_compile and not self._replicated
        compute = self._accumulate
        self._compute = (
            tf.function(compute, jit_compile=True) if jit_compile and self._replicated else compute
        )
        self._step = tf.function(self._replica_step, jit_compile=True) if whole else self._replica_step

    def __call__(self, features: Any) -> tf.Tensor:
        """Takes one step, in a graph.

        Args:
            features: A batch from the (distributed) iterator.

        Returns:
            float32 [4], in the order of `METRICS`; sums are over the global batch.
        """
        metrics = self.strategy.run(self._step, args=(features,))
        return self.strategy.experimental_local_results(metrics)[0]

    def _replica_step(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        loss_sum, weight_sum, gradients = self._compute(features)
        loss_sum, weight_sum, *gradients = self._sum_over_replicas([loss_sum, weight_sum, *gradients])
        scale = tf.math.reciprocal_no_nan(weight_sum)
        norm = tf.linalg.global_norm(gradients) * scale
        if self.clip_norm is not None:
            # A non-finite norm stays non-finite here, and stops the run, naming the step.
            scale = scale * self.clip_norm / tf.maximum(norm, self.clip_norm)
        gradients = [gradient * scale for gradient in gradients]
        rate = self.optimizer.learning_rate
        self.optimizer.apply(gradients)
        return tf.stack([loss_sum, weight_sum, norm, rate])

    def _accumulate(self, features: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Sums of loss, weight and gradients over this replica's microbatches."""
        count = self.num_microbatches
        if count == 1:
            return self._gradients(features)
        parts = {name: _split(x, count) for name, x in features.items()}
        zeros = [tf.zeros(v.shape, tf.float32) for v in self.optimizer.trainable]

        def body(index, loss_sum, weight_sum, sums):
            loss, weight, gradients = self._gradients({name: x[index] for name, x in parts.items()})
            sums = [total + gradient for total, gradient in zip(sums, gradients, strict=True)]
            return index + 1, loss_sum + loss, weight_sum + weight, sums

        start = (tf.constant(0), tf.constant(0.0), tf.constant(0.0), zeros)
        _, loss_sum, weight_sum, sums = tf.while_loop(
            lambda index, *_: index < count, body, start, maximum_iterations=count
        )
        return loss_sum, weight_sum, sums

    def _gradients(self, features: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        variables = self.optimizer.trainable
        with tf.GradientTape() as tape:
            outputs = self.model(features, training=True)
            loss_sum, weight_sum = self.task.loss(self.model, features, outputs)
        gradients = tape.gradient(
            loss_sum, [v.value for v in variables], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return loss_sum, weight_sum, [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradients]

    def _sum_over_replicas(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        if not self._replicated:
            return tensors
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def _split(x: tf.Tensor, count: int) -> tf.Tensor:
    shape = tf.shape(x)  # [B, ...] -> [count, B / count, ...]
    return tf.reshape(x, tf.concat([[count, shape[0] // count], shape[1:]], axis=0))
