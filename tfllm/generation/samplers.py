"""Choosing the next token: greedy, temperature, top-k, top-p, repetition penalty.

Every setting is a tensor with one value a row, so one graph serves every request and a row never depends
on its neighbours. Cut-offs are found by bisection over the bits of a float, 30 passes over the
vocabulary, instead of a sort: exact, and the same speed with XLA and without. Without XLA the passes are
most operations of a small model's step, so they run only where a row asks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfllm.layers import stateless_random


class Sampling(NamedTuple):
    """Settings, one value a row, all [B].

    Args:
        temperature: float32; 0 takes the likeliest token.
        top_k: int32; 0 keeps all. Tokens tied with the k-th stay.
        top_p: float32 in (0, 1]; the smallest set of likeliest tokens with this much probability
            (Holtzman et al. 2020).
        repetition_penalty: float32; 1 is off (Keskar et al. 2019).
        seed: int32.
    """

    temperature: tf.Tensor
    top_k: tf.Tensor
    top_p: tf.Tensor
    repetition_penalty: tf.Tensor
    seed: tf.Tensor


def sample(logits: tf.Tensor, seen: tf.Tensor, index: tf.Tensor, sampling: Sampling) -> tf.Tensor:
    """Chooses one token a row.

    Penalty, temperature, top-k and top-p apply in this order, as in transformers.

    Args:
        logits: float32 [B, V].
        seen: bool [B, V], the tokens of the prompt and those generated.
        index: int32 scalar, how many tokens were generated before; varies the random numbers.
        sampling: The settings.

    Returns:
        int32 [B].
    """
    penalty = sampling.repetition_penalty[:, None]
    penalized = tf.where(logits > 0, logits / penalty, logits * penalty)
    logits = tf.where(seen, penalized, logits)
    greedy = tf.argmax(logits, axis=-1, output_type=tf.int32)

    def draw() -> tf.Tensor:
        scaled = logits / tf.maximum(sampling.temperature, 1e-5)[:, None]
        # A cut-off that no row asks for would keep all; its passes are saved.
        top_k, top_p = sampling.top_k, sampling.top_p
        kept = tf.cond(tf.reduce_any(top_k > 0), lambda: _within_top_k(scaled, top_k), lambda: scaled)
        kept = tf.cond(tf.reduce_any(top_p < 1), lambda: _within_top_p(kept, top_p), lambda: kept)
        # A race of exponential clocks: the first to ring, of rates p, is a draw from p. It is the Gumbel-max
        # draw with one logarithm fewer. Numbers below 1 have negative logarithms: the least quotient rings.
        numbers = stateless_random.uniform(
            stateless_random.fold_in(sampling.seed, index), tf.shape(logits)[1]
        )
        # A number of exactly 0 would make a kept token's quotient that of one cut off.
        clocks = tf.nn.softmax(kept) / tf.math.log(tf.maximum(numbers, 2.0**-25))
        return tf.argmin(clocks, axis=-1, output_type=tf.int32)

    drawn = tf.cond(tf.reduce_any(sampling.temperature > 0), draw, lambda: greedy)
    return tf.where(sampling.temperature > 0, drawn, greedy)


def _within_top_k(logits: tf.Tensor, top_k: tf.Tensor) -> tf.Tensor:
    probabilities = tf.nn.softmax(logits)
    wanted = tf.where(top_k > 0, top_k, tf.shape(logits)[1])[:, None]

    def enough(threshold: tf.Tensor) -> tf.Tensor:
        kept = tf.cast(probabilities >= threshold, tf.int32)
        return tf.reduce_sum(kept, axis=-1, keepdims=True) >= wanted

    return tf.where(probabilities >= _largest(enough, tf.shape(logits)[0]), logits, -float("inf"))


def _within_top_p(logits: tf.Tensor, top_p: tf.Tensor) -> tf.Tensor:
    probabilities = tf.nn.softmax(logits)

    def enough(threshold: tf.Tensor) -> tf.Tensor:
        kept = tf.where(probabilities >= threshold, probabilities, 0.0)
        return tf.reduce_sum(kept, axis=-1, keepdims=True) >= top_p[:, None]

    cut = tf.where(top_p[:, None] < 1.0, _largest(enough, tf.shape(logits)[0]), 0.0)
    return tf.where(probabilities >= cut, logits, -float("inf"))


def _largest(enough: Callable[[tf.Tensor], tf.Tensor], batch: tf.Tensor) -> tf.Tensor:
    """The largest float32 [B, 1] in [0, 2) for which `enough` holds; 0 where it holds for none.

    The bits of non-negative floats, read as an integer, are in the order of the floats: the answer is
    built bit by bit from the top.
    """

    def body(bit: tf.Tensor, bits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        tried = bits | tf.bitwise.left_shift(1, bit)
        return bit - 1, tf.where(enough(tf.bitcast(tried, tf.float32)), tried, bits)

    start = (tf.constant(29), tf.zeros([batch, 1], tf.int32))
    invariants = (tf.TensorShape([]), tf.TensorShape([None, 1]))
    _, bits = tf.while_loop(lambda bit, _: bit >= 0, body, start, invariants, maximum_iterations=30)
    return tf.bitcast(bits, tf.float32)
