"""Cross-entropy over a vocabulary whose logits do not fit in memory for a whole batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

CHUNK_BYTES = 2**26  # float32 logits that exist at once, where no number of tokens is asked for

Project = Callable[[tf.Tensor], tf.Tensor]


def cross_entropy_sum(
    project: Project,
    hidden_states: tf.Tensor,
    targets: tf.Tensor,
    weights: tf.Tensor,
    *,
    chunk_tokens: int | None = None,
    differentiable: bool = True,
    label_smoothing: float = 0.0,
) -> tf.Tensor:
    """The weighted sum of cross-entropies, from hidden states, a chunk of tokens at a time.

    A chunk's logits are made, used and dropped. The loss is a sum, so its gradients by hidden states
    and output weights are sums over chunks too: they are taken while the chunk's logits are there, and
    the backward pass only scales them. So chunks cost no arithmetic (Hsu et al. 2024, "Liger Kernel").
    Gradients of the output weights add up over the chunks in the weights' own type, float32.

    Args:
        project: float [B, T, D] -> float32 [B, T, V], a model's `logits`. Any function of its argument
            and of variables that treats every token alike.
        hidden_states: float [B, T, D].
        targets: int32 [B, T].
        weights: float32 [B, T]; no gradient flows to them.
        chunk_tokens: Tokens whose logits exist at once, at most; None is what `CHUNK_BYTES` hold.
        differentiable: False computes no gradients, where nobody asks for them (evaluation).
        label_smoothing: Share of each target that goes to all V tokens alike.

    Returns:
        float32 scalar, in nats.
    """
    with tf.GradientTape() as probe:  # of one token, which no graph computes: what is read, how wide it is
        vocab_size = project(hidden_states[:1, :1]).shape[-1]
    variables = probe.watched_variables()
    chunks = _cut([hidden_states, targets, weights], chunk_tokens or chunk_tokens_for(vocab_size))

    def chunk_loss(states: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        return _loss_of(_logits(project, states), targets, weights, label_smoothing)

    if not differentiable:
        return _fold(lambda *chunk: ([chunk_loss(*chunk)], []), chunks, [tf.zeros([])], [])[0][0]

    def differentiated(states: tf.Tensor, *rest: tf.Tensor) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch(states)
            loss = chunk_loss(states, *rest)
        by_states, *by_weights = tape.gradient(loss, [states, *variables])
        return [loss, *map(tf.convert_to_tensor, by_weights)], [by_states]

    zeros = [tf.zeros([]), *(tf.zeros(v.shape, v.dtype) for v in variables)]
    (loss, *by_weights), (by_states,) = _fold(differentiated, chunks, zeros, [chunks[0]])
    by_states = _join(by_states, hidden_states)

    @tf.custom_gradient
    def attach(*inputs: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], Any]]:
        del inputs
        return loss, lambda upstream: [tf.cast(upstream, g.dtype) * g for g in (by_states, *by_weights)]

    return attach(hidden_states, *map(tf.convert_to_tensor, variables))


def evaluated_sums(
    project: Project,
    hidden_states: tf.Tensor,
    targets: tf.Tensor,
    weights: tf.Tensor,
    *,
    chunk_tokens: int | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The weighted sums of cross-entropies and of targets that are the likeliest token, a chunk of tokens at a time.

    Args:
        project: As in `cross_entropy_sum`.
        hidden_states: float [B, T, D].
        targets: int32 [B, T].
        weights: float32 [B, T].
        chunk_tokens: As in `cross_entropy_sum`.

    Returns:
        float32 scalars: the loss in nats, and how many were right. No gradient is kept.
    """
    vocab_size = project(hidden_states[:1, :1]).shape[-1]
    chunks = _cut([hidden_states, targets, weights], chunk_tokens or chunk_tokens_for(vocab_size))

    def sums(states: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor) -> tuple[list[tf.Tensor], list[Any]]:
        logits = _logits(project, states)
        right = tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32) == targets, tf.float32)
        return [_loss_of(logits, targets, weights), tf.reduce_sum(right * weights)], []

    (loss, right), _ = _fold(sums, chunks, [tf.zeros([]), tf.zeros([])], [])
    return loss, right


def token_log_probs(
    project: Project,
    hidden_states: tf.Tensor,
    targets: tf.Tensor,
    *,
    chunk_tokens: int | None = None,
) -> tf.Tensor:
    """The log-probability of each target, from hidden states, a chunk of tokens at a time.

    The backward pass, which a gradient for every token comes into, makes each chunk's logits once more: unlike a sum,
    whose gradient by its terms is known beforehand, what is made of these is not.

    Args:
        project: As in `cross_entropy_sum`.
        hidden_states: float [B, T, D].
        targets: int32 [B, T].
        chunk_tokens: As in `cross_entropy_sum`.

    Returns:
        float32 [B, T], in nats.
    """
    with tf.GradientTape() as probe:
        vocab_size = project(hidden_states[:1, :1]).shape[-1]
    variables = probe.watched_variables()
    limit = chunk_tokens or chunk_tokens_for(vocab_size)

    def of_chunk(states: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        return -tf.nn.sparse_softmax_cross_entropy_with_logits(targets, _logits(project, states))

    chunks = _cut([hidden_states, targets], limit)
    like = tf.cast(chunks[1], tf.float32)
    _, (found,) = _fold(lambda *chunk: ([], [of_chunk(*chunk)]), chunks, [], [like])
    found = tf.stop_gradient(_join(found[..., None], hidden_states[..., :1])[..., 0])

    def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
        parts = _cut([hidden_states, targets, upstream], limit)

        def differentiated(
            states: tf.Tensor, targets: tf.Tensor, upstream: tf.Tensor
        ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
            with tf.GradientTape() as tape:
                tape.watch(states)
                total = tf.reduce_sum(of_chunk(states, targets) * upstream)
            by_states, *by_weights = tape.gradient(total, [states, *variables])
            return list(map(tf.convert_to_tensor, by_weights)), [by_states]

        zeros = [tf.zeros(v.shape, v.dtype) for v in variables]
        by_weights, (by_states,) = _fold(differentiated, parts, zeros, [parts[0]])
        return [_join(by_states, hidden_states), *by_weights]

    @tf.custom_gradient
    def attach(*inputs: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
        del inputs
        return found, gradient

    return attach(hidden_states, *map(tf.convert_to_tensor, variables))


def chunk_tokens_for(vocab_size: int) -> int:
    """Tokens whose float32 logits `CHUNK_BYTES` hold."""
    return max(1, CHUNK_BYTES // (4 * vocab_size))


def _logits(project: Project, states: tf.Tensor) -> tf.Tensor:
    return tf.cast(project(states[None])[0], tf.float32)  # [C, D] -> [C, V]


def _loss_of(
    logits: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor, label_smoothing: float = 0.0
) -> tf.Tensor:
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
    if label_smoothing:
        of_all = tf.reduce_logsumexp(logits, axis=-1) - tf.reduce_mean(logits, axis=-1)
        losses = (1.0 - label_smoothing) * losses + label_smoothing * of_all
    return tf.reduce_sum(losses * weights)


def _cut(tensors: Sequence[tf.Tensor], limit: int) -> list[tf.Tensor]:
    """Cuts [B, T, ...] into even chunks of at most `limit` tokens -> [count, C, ...]; zeros fill the last."""
    shape = tensors[0].shape[:2]
    known = shape.is_fully_defined()
    tokens = shape.num_elements() if known else tf.reduce_prod(tf.shape(tensors[0])[:2])
    count = -(-tokens // limit)
    size = -(-tokens // count)
    missing = count * size - tokens

    def cut(x: tf.Tensor) -> tf.Tensor:
        rest = x.shape[2:]
        flat = tf.pad(tf.reshape(x, [-1, *rest]), [[0, missing], *([0, 0] for _ in rest)])
        return tf.reshape(flat, [count, size, *rest])

    return [cut(x) for x in tensors]


def _join(chunks: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Undoes `_cut`: [count, C, D] -> the shape of `like`, [B, T, D]."""
    shape = tf.shape(like)
    flat = tf.reshape(chunks, [-1, like.shape[-1]])
    return tf.reshape(flat[: shape[0] * shape[1]], shape)


def _fold(
    compute: Callable[..., tuple[list[tf.Tensor], list[tf.Tensor]]],
    chunks: Sequence[tf.Tensor],
    zeros: Sequence[tf.Tensor],
    like: Sequence[tf.Tensor],
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Calls `compute` for each chunk, and adds up its first results, and stacks its second.

    Args:
        compute: A chunk of each tensor -> sums (shaped as `zeros`), and rows (as a chunk of `like`).
        chunks: Each [count, C, ...].
        zeros: What the sums start from.
        like: Tensors [count, C, ...], shaped as the stacked rows.

    Returns:
        The sums, and the stacked rows.
    """
    count = chunks[0].shape[0]
    if count == 1:
        sums, rows = compute(*(x[0] for x in chunks))
        return sums, [row[None] for row in rows]
    count = tf.shape(chunks[0])[0] if count is None else count

    # A loop, not `count` copies of its body: XLA on CPU keeps the logits of several copies at a time.
    def body(index: tf.Tensor, sums: list[tf.Tensor], arrays: list[tf.TensorArray]) -> tuple[Any, ...]:
        parts, rows = compute(*(x[index] for x in chunks))
        sums = [total + part for total, part in zip(sums, parts, strict=True)]
        return index + 1, sums, [array.write(index, row) for array, row in zip(arrays, rows, strict=True)]

    arrays = [tf.TensorArray(x.dtype, size=count, element_shape=x.shape[1:]) for x in like]
    _, sums, arrays = tf.while_loop(
        lambda index, *_: index < count,
        body,
        (tf.constant(0), list(zeros), arrays),
        parallel_iterations=1,
        maximum_iterations=count,
    )
    return sums, [array.stack() for array in arrays]
