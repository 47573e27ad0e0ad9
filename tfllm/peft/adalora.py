"""AdaLoRA: matrices whose ranks fall during the training, where they are worth least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfllm.layers.adaptive_low_rank import PARTS, AdaptiveLowRank
from tfllm.peft.errors import PeftError
from tfllm.peft.lora import NAME
from tfllm.peft.targets import chosen, low_rank_layers, train_only

_TINY = 1e-12  # under the root of a norm, whose gradient at zero is none


class Adalora:
    """Puts matrices of falling rank beside others (Zhang et al. 2023).

    Args:
        initial_rank: Directions of each at the start.
        target_rank: Directions at the end, as a mean over all of them.
        alpha: What is added is multiplied by alpha / initial_rank.
        dropout: Share of the input that is dropped on the way through it.
        targets: The projections, as in `chosen`.
        fall_begin: Share of the training behind which ranks fall.
        fall_end: Share of it behind which they stay.
        every: Updates between two choices.
        beta_1: Decay of the mean of a weight's worth.
        beta_2: The same of how much that varies.
        orthogonality: Coefficient of the penalty that keeps directions apart.
        train: Globs over the paths of variables that are trained as they are.
    """

    def __init__(
        self,
        *,
        initial_rank: int,
        target_rank: int,
        alpha: float,
        dropout: float = 0.0,
        targets: Sequence[str] = ("all",),
        fall_begin: float = 0.1,
        fall_end: float = 0.7,
        every: int = 1,
        beta_1: float = 0.85,
        beta_2: float = 0.85,
        orthogonality: float = 0.5,
        train: Sequence[str] = (),
    ):
        self.initial_rank, self.target_rank = initial_rank, target_rank
        self.alpha, self.dropout = alpha, dropout
        self.targets, self.train = tuple(targets), tuple(train)
        self.fall_begin, self.fall_end, self.every = fall_begin, fall_end, every
        self.beta_1, self.beta_2, self.orthogonality = beta_1, beta_2, orthogonality

    def attach(self, model: Any, *, with_head: bool = False) -> None:
        """Changes a built model: what is added is zero at first, and all else is frozen; as `Lora.attach`."""
        found = chosen(model, self.targets)
        added: list[Any] = []
        for path, projection in found.items():
            rows, columns = projection.kernel.shape
            if self.initial_rank > min(rows, columns):
                raise PeftError(
                    f"peft.initial_rank={self.initial_rank} exceeds the rank that {path}, a matrix of {rows} x"
                    f" {columns}, can have; write at most {min(rows, columns)}"
                )
            layer = AdaptiveLowRank(
                units=projection.units,
                rank=self.initial_rank,
                scale=self.alpha / self.initial_rank,
                dropout=self.dropout,
                name=NAME,
                dtype=projection.dtype_policy,
            )
            projection.add_beside(layer)
            added += [layer.a, layer.e, layer.b]
        train_only(model, added, patterns=self.train, with_head=with_head)

    def allocator(self, model: Any, num_steps: int) -> RankAllocator:
        """What shares ranks out in a training of a model that this was attached to."""
        return RankAllocator(
            list(low_rank_layers(model).values()),
            target_rank=self.target_rank,
            begin=int(self.fall_begin * num_steps),
            end=max(int(self.fall_begin * num_steps) + 1, int(self.fall_end * num_steps)),
            every=self.every,
            betas=(self.beta_1, self.beta_2),
            orthogonality=self.orthogonality,
        )


class RankAllocator:
    """Shares ranks out: those directions stay whose weights, times their gradients, were largest.

    A weight's worth is |w·g|, of the gradient of the whole global batch; its mean and its variation are kept, and their
    product is its score. A direction's is that of its E and the means over its parts of A and B (Zhang et al. 2023,
    equations 8 to 11, and algorithm 1).

    Args:
        layers: All of one rank.
        target_rank: Directions at the end, as a mean.
        begin: Updates behind which ranks fall.
        end: Updates behind which they stay.
        every: Updates between two choices.
        betas: Decays of mean and variation.
        orthogonality: Coefficient of the penalty.
    """

    def __init__(
        self,
        layers: Sequence[AdaptiveLowRank],
        *,
        target_rank: int,
        begin: int,
        end: int,
        every: int,
        betas: tuple[float, float],
        orthogonality: float,
    ):
        self.layers, self.orthogonality, self.betas = list(layers), orthogonality, betas
        self.first = sum(layer.rank for layer in self.layers)
        self.last = target_rank * len(self.layers)
        self.begin, self.end, self.every = begin, end, every

    def penalty(self) -> tf.Tensor:
        """The mean over all A and B of ‖AᵀA - I‖ and ‖BBᵀ - I‖, float32 scalar, times its coefficient."""
        norms = []
        for layer in self.layers:
            for matrix, first in ((layer.a, True), (layer.b, False)):
                value = tf.cast(tf.convert_to_tensor(matrix), tf.float32)
                products = tf.matmul(value, value, transpose_a=first, transpose_b=not first)
                norms.append(tf.sqrt(tf.reduce_sum((products - tf.eye(layer.rank)) ** 2) + _TINY))
        return self.orthogonality * tf.add_n(norms) / len(norms)

    def budget(self, update: tf.Tensor) -> tf.Tensor:
        """Directions that are left after an update, int32: all, then fewer with the cube of what is to come."""
        done = tf.cast(update - self.begin, tf.float32) / (self.end - self.begin)
        left = (1.0 - tf.clip_by_value(done, 0.0, 1.0)) ** 3
        return self.last + tf.cast(tf.cast(self.first - self.last, tf.float32) * left, tf.int32)

    def changes(
        self, update: tf.Tensor, gradients: dict[str, tf.Tensor], read: Callable[[Any], tf.Tensor]
    ) -> list[tuple[Any, tf.Tensor]]:
        """What variables become after an update.

        Args:
            update: int32, its number, from 1.
            gradients: By the variables' paths, of the mean loss.
            read: The value of a variable.

        Returns:
            Variables and their values: worth and doubt of every weight, which directions are kept, and E, whose others
            are zero.
        """
        found: list[tuple[Any, tf.Tensor]] = []
        scores = [self._score(layer, gradients, read, found) for layer in self.layers]
        budget = self.budget(update)
        falling = (update > self.begin) & (update < self.end) & (update % self.every == 0)
        choosing = falling | tf.equal(update, self.end)
        ordered = tf.sort(tf.concat(scores, axis=0))
        cut = self.first - budget  # so many go
        least = tf.where(cut > 0, ordered[tf.maximum(cut - 1, 0)], -1.0)
        for layer, score in zip(self.layers, scores, strict=True):
            kept = tf.where(choosing, tf.cast(score > least, tf.float32), read(layer.kept))
            found.append((layer.kept, kept))
            held = tf.where(choosing | (update > self.end), kept, tf.ones_like(kept))
            found.append((layer.e, read(layer.e) * held))
        return found

    def _score(
        self,
        layer: AdaptiveLowRank,
        gradients: dict[str, tf.Tensor],
        read: Callable[[Any], tf.Tensor],
        found: list[tuple[Any, tf.Tensor]],
    ) -> tf.Tensor:
        """Of each direction of a layer, float32 [r]; adds its new worth and doubt to `found`."""
        total = tf.zeros([layer.rank])
        for part in PARTS:
            variable = getattr(layer, part)
            worth, doubt = (getattr(layer, f"{part}_{state}") for state in ("worth", "doubt"))
            now = tf.abs(read(variable) * gradients[variable.path])
            mean = self.betas[0] * read(worth) + (1 - self.betas[0]) * now
            variation = self.betas[1] * read(doubt) + (1 - self.betas[1]) * tf.abs(now - mean)
            found += [(worth, mean), (doubt, variation)]
            score = mean * variation
            axis = {"a": 0, "b": 1}.get(part)
            total += score if axis is None else tf.reduce_mean(score, axis)
        return total
