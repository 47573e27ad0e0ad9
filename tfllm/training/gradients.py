"""Sums and gradients of one replica's share of a batch, a microbatch at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import tensorflow as tf

from tfllm.training.loss_scale import LossScale
from tfllm.training.optimizers import Optimizer

Features = dict[str, tf.Tensor]
SumsAndGradients = tuple[tf.Tensor, list[tf.Tensor]]

_BY = "gradient_by/"  # what a microbatch's rows are given, beside their features


@runtime_checkable
class ComparesExamples(Protocol):
    """A contrastive task: its loss compares every example with all others of the global batch, whatever it is divided
    into, so that all of them are negatives of each other.

    It has no `loss` of its own; its `weights` are given the features `compared` of the whole batch.

    Attributes:
        compared: Features that the loss reads beside the vectors, each [B, …].
    """

    compared: Sequence[str]

    def vectors(self, model: Any, features: Features, outputs: Features) -> Features:
        """Return what is compared, float32 [B, …] by name."""
        ...

    def loss_of_vectors(self, vectors: Features, features: Features) -> Features:
        """Return the sum of each term over the whole global batch, float32 scalars."""
        ...


class Gradients:
    """Takes gradients of a task's loss SUM by the variables that are trained.

    Args:
        model: The model.
        task: The task.
        optimizer: Says which variables are trained.
        num_microbatches: Parts that rows are computed in.
        loss_scale: For float16.
    """

    def __init__(
        self,
        *,
        model: Any,
        task: Any,
        optimizer: Optimizer,
        num_microbatches: int,
        loss_scale: LossScale | None,
    ):
        self.model, self.task, self.optimizer = model, task, optimizer
        self.num_microbatches, self.loss_scale = num_microbatches, loss_scale
        self.terms = tuple(task.coefficients)

    def of_sums(self, features: Features, shares: tf.Tensor) -> SumsAndGradients:
        """Of a loss to which every example adds.

        Args:
            features: The rows.
            shares: float32 [terms], what each term's sum is multiplied by.

        Returns:
            float32 [2 terms + 2]: losses and weights of the terms, tokens and positions; and the gradients.
        """

        def target(features: Features, outputs: Features) -> tuple[tf.Tensor, tf.Tensor]:
            losses = stacked(self.terms, self.task.loss(self.model, features, outputs))
            weights = stacked(self.terms, self.task.weights(features))
            return tf.reduce_sum(shares * losses), tf.concat([losses, weights], axis=0)

        return self._summed(features, target)

    def vectors(self, features: Features) -> Features:
        """What is compared of these rows; no gradient is kept."""
        count = self.num_microbatches

        def of(features: Features) -> Features:
            return self.task.vectors(self.model, features, self.model(features, training=True))

        if count == 1:
            return of(features)
        parts = {name: _split(x, count) for name, x in features.items()}
        first = of({name: x[0] for name, x in parts.items()})  # which says how large they are
        arrays = {
            name: tf.TensorArray(x.dtype, size=count, element_shape=x.shape).write(0, x)
            for name, x in first.items()
        }

        def body(index: tf.Tensor, arrays: dict[str, tf.TensorArray]) -> tuple[Any, ...]:
            made = of({name: x[index] for name, x in parts.items()})
            return index + 1, {name: array.write(index, made[name]) for name, array in arrays.items()}

        _, arrays = tf.while_loop(
            lambda index, _: index < count,
            body,
            (tf.constant(1), arrays),
            parallel_iterations=1,
            maximum_iterations=count - 1,
        )
        return {
            name: tf.reshape(array.stack(), [count * first[name].shape[0], *first[name].shape[1:]])
            for name, array in arrays.items()
        }

    def by_vectors(
        self, vectors: Features, features: Features, replica: tf.Tensor, num_replicas: int
    ) -> tuple[tf.Tensor, Features]:
        """The loss of a whole global batch, and its gradient by the vectors of one replica's rows.

        Args:
            vectors: Of all rows, in order.
            features: Those that are compared, of all rows.
            replica: int32 scalar, whose rows.
            num_replicas: Replicas, which have equal shares.

        Returns:
            float32 [2 terms], losses and weights at the first replica and zeros at the others, as they are added up;
            and for each of the vectors float32 [B / num_replicas, …].
        """
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            losses = stacked(self.terms, self.task.loss_of_vectors(vectors, features))
            weights = stacked(self.terms, self.task.weights(features))
            target = tf.reduce_sum(shares_of(self.task.coefficients, weights) * losses)
        by = tape.gradient(target, vectors, unconnected_gradients=tf.UnconnectedGradients.ZERO)

        # As one of equal parts: XLA slices from a place that is not known beforehand by no other way.
        own = {name: tf.reshape(x, [num_replicas, -1, *x.shape[1:]])[replica] for name, x in by.items()}
        sums = tf.concat([losses, weights], axis=0)
        return tf.where(replica == 0, sums, tf.zeros_like(sums)), own

    def of_vectors(self, features: Features, by: Features, sums: tf.Tensor) -> SumsAndGradients:
        """Of the same loss by the variables: the rows once more, now with the gradients by their vectors known.

        Paper: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup". Dropout
        follows from each row's seed, so that both passes drop alike.

        Args:
            features: The rows.
            by: From `by_vectors`.
            sums: The same.

        Returns:
            As `of_sums`.
        """

        def target(features: Features, outputs: Features) -> tuple[tf.Tensor, tf.Tensor]:
            vectors = self.task.vectors(self.model, features, outputs)
            parts = [tf.reduce_sum(x * features[_BY + name]) for name, x in vectors.items()]
            return tf.add_n(parts), tf.zeros_like(sums)

        named = {_BY + name: x for name, x in by.items()}
        counted, gradients = self._summed({**features, **named}, target)
        return counted + tf.pad(sums, [[0, 2]]), gradients

    def _summed(
        self, features: Features, target: Callable[[Features, Features], tuple[tf.Tensor, tf.Tensor]]
    ) -> SumsAndGradients:
        """Sums over the microbatches."""
        count = self.num_microbatches
        if count == 1:
            return self._differentiated(features, target)
        parts = {name: _split(x, count) for name, x in features.items()}
        zeros = [tf.zeros(v.shape, tf.float32) for v in self.optimizer.trainable]

        def body(index, sums, totals):
            more, gradients = self._differentiated({name: x[index] for name, x in parts.items()}, target)
            totals = [total + gradient for total, gradient in zip(totals, gradients, strict=True)]
            return index + 1, sums + more, totals

        start = (tf.constant(0), tf.zeros([2 * len(self.terms) + 2]), zeros)
        _, sums, totals = tf.while_loop(
            lambda index, *_: index < count, body, start, maximum_iterations=count
        )
        return sums, totals

    def _differentiated(
        self, features: Features, target: Callable[[Features, Features], tuple[tf.Tensor, tf.Tensor]]
    ) -> SumsAndGradients:
        tokens, positions = _count_tokens(features)
        multiplier = None if self.loss_scale is None else self.loss_scale.multiplier(positions)
        with tf.GradientTape() as tape:
            loss, sums = target(features, self.model(features, training=True))
            loss = loss if multiplier is None else loss * multiplier
        gradients = tape.gradient(
            loss,
            [v.value for v in self.optimizer.trainable],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        gradients = [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradients]
        if multiplier is not None:
            gradients = [gradient / multiplier for gradient in gradients]
        return tf.concat([sums, [tokens, positions]], axis=0), gradients


def loss_of_batch(model: Any, task: Any, features: Features) -> tuple[tf.Tensor, tf.Tensor]:
    """The loss of a whole global batch, computed at once: its sum and its weight, float32 scalars."""
    outputs = model(features, training=True)
    if isinstance(task, ComparesExamples):
        losses = task.loss_of_vectors(task.vectors(model, features, outputs), features)
    else:
        losses = task.loss(model, features, outputs)
    terms = tuple(task.coefficients)
    weights = stacked(terms, task.weights(features))
    shares = shares_of(task.coefficients, weights)
    return tf.reduce_sum(shares * stacked(terms, losses)), tf.reduce_max(weights)


def shares_of(coefficients: Mapping[str, float], weights: tf.Tensor) -> tf.Tensor:
    """What each term's sum is multiplied by, to count by its own mean over the weight of the heaviest.

    Args:
        coefficients: Of each term, in order.
        weights: float32 [terms], over the global batch; of a single term any.

    Returns:
        float32 [terms]; 0 for a term that no example has.
    """
    factors = tf.constant(list(coefficients.values()), tf.float32)
    if len(coefficients) == 1:
        return factors
    return factors * tf.math.divide_no_nan(tf.reduce_max(weights), weights)


def stacked(terms: Sequence[str], sums: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Return a number for each term, float32 [terms]."""
    assert tuple(sums) == tuple(terms), f"the task names {tuple(sums)} where its coefficients name {terms}"
    return tf.stack(list(sums.values()))


def _count_tokens(features: Features) -> tuple[tf.Tensor, tf.Tensor]:
    """Positions that hold text, and all positions, float32, over every side; one without segments or mask is all
    text."""
    tokens = positions = tf.zeros([])
    for name, ids in features.items():
        if not name.endswith("token_ids"):
            continue
        side = name.removesuffix("token_ids")
        whole = tf.cast(tf.size(ids), tf.float32)
        masks = [features[side + mask] for mask in ("segment_ids", "padding_mask") if side + mask in features]
        positions += whole
        tokens += tf.cast(tf.math.count_nonzero(masks[0]), tf.float32) if masks else whole
    return tokens, positions


def _split(x: tf.Tensor, count: int) -> tf.Tensor:
    shape = tf.shape(x)  # [B, ...] -> [count, B / count, ...]
    return tf.reshape(x, tf.concat([[count, shape[0] // count], shape[1:]], axis=0))
