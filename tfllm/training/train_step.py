"""One optimizer update, the same on one device and on many."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.training.gradients import ComparesExamples, Gradients, shares_of, stacked
from tfllm.training.loss_scale import SMALLEST, LossScale
from tfllm.training.norms import global_norm
from tfllm.training.optimizers import Optimizer
from tfllm.training.replica import chosen, local

# A step's numbers, in the order of the vector that it returns. Sums are over the global batch. Behind them, of a loss
# of several terms, stand the terms' own sums: see `metric_names`.
METRICS = (
    "loss_sum",  # of the terms, each brought to the weight below
    "weight_sum",  # of the heaviest term
    "real_tokens",  # positions that hold text
    "positions",  # positions computed, padding included
    "stop",  # replicas whose process was asked to stop
    "grad_norm",
    "learning_rate",
    "update_ratio",  # norm of the update over norm of the weights after it
    "loss_scale",
    "skipped",  # 1: the weights stayed as they were, on purpose
    "failed",  # 1: the weights stayed as they were, because a number was not finite
)


class TrainStep:
    """Forward, loss as sums and weights, gradients, one reduction, clip, update.

    The order matters: gradients of the loss SUM are added over microbatches and replicas, divided once by
    the global weight, and only then clipped. So N replicas or k microbatches compute what one device
    with the whole batch would, with clipping on and uneven weights.

    A loss of several terms is the sum of their means, each times its coefficient. Every term has a global weight of
    its own; those follow from the features alone, so they are summed first, and each term is brought to the weight of
    the heaviest before the gradient is taken: one backward pass and one division serve all. A loss that compares
    all examples of the global batch takes two passes (see `ComparesExamples`).

    A step whose gradient is not finite, or larger than `skip_above`, leaves weights and optimizer as they
    are, on every replica alike.

    Args:
        model: A model that keeps the features-to-outputs contract.
        task: Gives `coefficients`, `weights` and `loss` (see `tfllm.tasks.task.Task`).
        optimizer: From `make_optimizer`: it neither clips nor sums over replicas.
        strategy: The strategy the model and the optimizer were made under.
        clip_norm: Largest global gradient norm; None does not clip.
        skip_above: Largest global gradient norm that is applied at all; None applies every finite one.
        num_microbatches: Parts a replica's share of the batch is computed in.
        loss_scale: For float16: scales the loss, and makes an overflow a skipped step.
        penalty: A term that no data goes into, float32 scalar, of the variables alone: added once a step to the
            mean loss' gradient, after the reduction and before clipping. It is no part of `loss_sum`.
        after_update: What more changes with an update: from its number, int32, the gradients that were applied, by the
            variables' paths, and what reads a variable, it makes variables and their new values.
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
        penalty: Callable[[], tf.Tensor] | None = None,
        after_update: Callable[..., Sequence[tuple[Any, tf.Tensor]]] | None = None,
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
        self.penalty, self.after_update = penalty, after_update
        self.terms = tuple(task.coefficients)
        self._replicated = strategy.num_replicas_in_sync > 1

        def compiled(part: Callable[..., Any], where: bool) -> Callable[..., Any]:
            return tf.function(part, jit_compile=True, autograph=False) if jit_compile and where else part

        gradients = Gradients(
            model=model,
            task=task,
            optimizer=optimizer,
            num_microbatches=num_microbatches,
            loss_scale=loss_scale,
        )
        self._of_sums = compiled(gradients.of_sums, self._replicated)
        self._vectors = compiled(gradients.vectors, self._replicated)
        self._by_vectors = compiled(
            functools.partial(gradients.by_vectors, num_replicas=strategy.num_replicas_in_sync),
            self._replicated,
        )
        self._of_vectors = compiled(gradients.of_vectors, self._replicated)
        self._apply = compiled(self._update, self._replicated)
        self._step = compiled(self._replica_step, not self._replicated)

    def __call__(self, features: Any, stop: tf.Tensor | float = 0.0) -> tf.Tensor:
        """Takes one step, in a graph.

        Args:
            features: A batch from the (distributed) iterator.
            stop: float32, 1 when this process was asked to stop; the sum tells every other one.

        Returns:
            float32 [M], in the order of `metric_names(terms)`.
        """
        metrics = self.strategy.run(self._step, args=(features, tf.convert_to_tensor(stop)))
        return self.strategy.experimental_local_results(metrics)[0]

    def _replica_step(self, features: dict[str, tf.Tensor], stop: tf.Tensor) -> tf.Tensor:
        if isinstance(self.task, ComparesExamples):
            sums, gradients = self._compared(features)
        else:
            sums, gradients = self._of_sums(features, self._shares(features))
        sums = tf.concat([sums, [stop]], axis=0)
        sums, *gradients = self._sum_over_replicas([sums, *gradients])
        return self._apply(sums, gradients)

    def _compared(self, features: dict[str, tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Two passes: the vectors of every replica's rows first, then the gradients of this one's."""
        vectors = self._vectors(features)
        seen = {name: features[name] for name in self.task.compared}
        vectors, seen = self._of_all_replicas((vectors, seen))
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        sums, by = self._by_vectors(vectors, seen, tf.convert_to_tensor(replica, tf.int32))
        return self._of_vectors(features, by, sums)

    def _shares(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        """What each term's sum is multiplied by, float32 [terms]: one term needs to know no other's weight."""
        weights = tf.zeros([1])
        if len(self.terms) > 1:
            [weights] = self._sum_over_replicas([stacked(self.terms, self.task.weights(features))])
        return shares_of(self.task.coefficients, weights)

    def _sum_over_replicas(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        if not self._replicated:
            return tensors
        return tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.SUM, self._placed(tensors)
        )

    def _of_all_replicas(self, tensors: Any) -> Any:
        """Tensors [b, …] of every replica, one after the other; XLA has no such operation on every device."""
        if not self._replicated:
            return tensors
        return tf.distribute.get_replica_context().all_gather(self._placed(tensors), axis=0)

    def _placed(self, tensors: Any) -> Any:
        """Tensors that carry no device have no destination to be reduced to."""
        devices = self.strategy.extended.worker_devices
        if len(devices) != 1:
            return tensors
        with tf.device(devices[0]):
            return tf.nest.map_structure(tf.identity, tensors)

    def _update(self, sums: tf.Tensor, gradients: list[tf.Tensor]) -> tf.Tensor:
        """Divides, clips and applies what was summed over all replicas; the same on each of them."""
        count = len(self.terms)
        losses, weights, counts = sums[:count], sums[count : 2 * count], sums[2 * count :]
        weight_sum = tf.reduce_max(weights)
        loss_sum = tf.reduce_sum(shares_of(self.task.coefficients, weights) * losses)
        scale = tf.math.reciprocal_no_nan(weight_sum)
        if self.penalty is not None:
            gradients = [
                gradient * scale + more
                for gradient, more in zip(gradients, self._penalty_gradients(), strict=True)
            ]
            scale = tf.constant(1.0)
        norm = global_norm(gradients) * scale
        finite = tf.math.is_finite(norm)
        good_loss = tf.math.is_finite(loss_sum)
        applied = finite & good_loss
        applied = applied if self.skip_above is None else applied & (norm <= self.skip_above)
        rate = tf.cast(self.optimizer.learning_rate, tf.float32)
        if self.clip_norm is not None:
            scale = scale * self.clip_norm / tf.maximum(norm, self.clip_norm)
        gradients = [gradient * scale for gradient in gradients]
        update_norm, weight_norm = self.optimizer.apply(gradients, applied=applied)
        self._change_more(gradients, applied)
        ratio = tf.math.divide_no_nan(update_norm, weight_norm)
        failed = ~good_loss
        loss_scale = tf.constant(1.0)
        if self.loss_scale is None:
            failed = failed | ~finite
        else:
            loss_scale = self.loss_scale.update(finite)
            failed = failed | (loss_scale < SMALLEST)
        flags = [tf.cast(flag, tf.float32) for flag in (~applied & ~failed, failed)]
        own = [losses, weights] if count > 1 else []
        numbers = tf.stack([norm, rate, ratio, loss_scale, *flags])
        return tf.concat([[loss_sum, weight_sum], counts, numbers, *own], axis=0)

    def _change_more(self, gradients: list[tf.Tensor], applied: tf.Tensor) -> None:
        """What `after_update` says, on this replica's copies, as every other one does; nothing of a skipped step."""
        if self.after_update is None:
            return
        paths = [variable.path for variable in self.optimizer.trainable]
        update = tf.cast(tf.convert_to_tensor(local(self.optimizer.updates)), tf.int32)

        def read(variable: Any) -> tf.Tensor:
            return tf.convert_to_tensor(local(variable))

        changes = self.after_update(update, dict(zip(paths, gradients, strict=True)), read)
        for variable, value in changes:
            local(variable).assign(chosen(applied, tf.cast(value, variable.dtype), read(variable)))

    def _penalty_gradients(self) -> list[tf.Tensor]:
        assert self.penalty is not None
        with tf.GradientTape() as tape:
            penalty = self.penalty()
        gradients = tape.gradient(
            penalty,
            [v.value for v in self.optimizer.trainable],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradients]


def metric_names(terms: Sequence[str]) -> tuple[str, ...]:
    """The names of a step's numbers: `METRICS`, and of several terms each one's loss and weight."""
    if len(terms) < 2:
        return METRICS
    return (*METRICS, *(f"loss_sum/{term}" for term in terms), *(f"weight_sum/{term}" for term in terms))


def metrics_by_name(rows: np.ndarray, terms: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Names the columns of float [n, M]: a float64 [n] for each of `metric_names(terms)`."""
    return dict(zip(metric_names(terms), np.asarray(rows, np.float64).T, strict=True))
