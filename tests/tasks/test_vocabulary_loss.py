import re

import numpy as np
import pytest
import tensorflow as tf

from tests.training.toy import batches, run_steps, toy_model, toy_step
from tfllm.evaluation.evaluator import Evaluator
from tfllm.tasks.causal_lm import CausalLM
from tfllm.tasks.vocabulary_loss import CHUNK_BYTES, chunk_tokens_for, cross_entropy_sum

B, T, D, V = 3, 7, 16, 41
RNG = np.random.default_rng(0)
STATES = RNG.normal(size=[B, T, D]).astype(np.float32)
TARGETS = tf.constant(RNG.integers(0, V, [B, T]), tf.int32)
WEIGHTS = tf.constant(RNG.random([B, T]) * RNG.integers(0, 2, [B, T]), tf.float32)


class Head:
    """An output layer with a bias, and a cap on the logits, as some models have."""

    def __init__(self):
        rng = np.random.default_rng(1)
        self.kernel = tf.Variable(rng.normal(size=[D, V]), dtype=tf.float32)
        self.bias = tf.Variable(rng.normal(size=[V]), dtype=tf.float32)

    def __call__(self, states):
        flat = tf.matmul(tf.reshape(states, [-1, D]), tf.cast(self.kernel, states.dtype))
        logits = tf.cast(flat + tf.cast(self.bias, states.dtype), tf.float32)
        return tf.reshape(10.0 * tf.tanh(logits / 10.0), [*states.shape[:2], V])


HEAD = Head()


def loss_of_all_logits(head, states, targets, weights):
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, head(states))
    return tf.reduce_sum(losses * weights)


def chunked(chunk_tokens):
    def loss(*arguments):
        return cross_entropy_sum(*arguments, chunk_tokens=chunk_tokens)

    return loss


def with_gradients(loss_of, states=STATES, scale=1.7):
    """The loss, and gradients by states, kernel and bias; `scale` follows the loss, as a mean would."""
    states = tf.convert_to_tensor(states)
    with tf.GradientTape() as tape:
        tape.watch(states)
        loss = loss_of(HEAD, states, TARGETS, WEIGHTS)
        scaled = scale * loss
    return loss, *tape.gradient(scaled, [states, HEAD.kernel, HEAD.bias])


def assert_close(ours, theirs, rtol):
    """Each tensor to `rtol` of its own largest value."""
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        one, other = (tf.cast(x, tf.float32).numpy() for x in (one, other))
        np.testing.assert_allclose(one, other, rtol=0, atol=rtol * np.abs(other).max())


@pytest.mark.parametrize("chunk_tokens", [None, 1, 4, 7, B * T - 1, B * T, 1000])
def test_chunks_change_nothing(chunk_tokens):
    assert_close(with_gradients(chunked(chunk_tokens)), with_gradients(loss_of_all_logits), 1e-6)


def test_chunks_change_nothing_in_bfloat16():
    """Each chunk's gradient by the kernel is a bfloat16 product (8 bits: 1/256), but their sum is float32.

    Without chunks the whole product is rounded once, so the two differ by that one rounding; against
    float32 products of the same inputs, chunks are no further off than the whole.
    """
    states = tf.cast(STATES, tf.bfloat16)
    ours, theirs = (with_gradients(loss, states) for loss in (chunked(4), loss_of_all_logits))
    assert_close(ours, theirs, 2**-7)
    assert ours[2].dtype == tf.float32
    exact = with_gradients(loss_of_all_logits, tf.cast(states, tf.float32))
    error = [float(tf.norm(g[2] - exact[2])) for g in (ours, theirs)]
    assert error[0] < 1.2 * error[1]


def test_the_compiled_step_never_holds_all_logits():
    compiled = tf.function(lambda s: with_gradients(chunked(4), s), jit_compile=True, autograph=False)
    assert_close(compiled(STATES), with_gradients(loss_of_all_logits), 1e-6)
    widths = rows_beside_the_vocabulary(compiled)
    assert 4 in widths, "the logits of a chunk"
    assert max(widths) == D, "the kernel is the largest thing with V columns"
    whole = tf.function(lambda s: with_gradients(loss_of_all_logits, s), jit_compile=True, autograph=False)
    assert B * T in rows_beside_the_vocabulary(whole), "so the search can fail"


def rows_beside_the_vocabulary(function):
    text = function.experimental_get_compiler_ir(tf.convert_to_tensor(STATES))(stage="optimized_hlo")
    return {int(n) for pair in re.findall(rf"\[(\d+),{V}\]|\[{V},(\d+)\]", text) for n in pair if n}


@pytest.mark.parametrize("jit_compile", [False, True])
def test_shapes_may_be_unknown(jit_compile):
    @tf.function(
        jit_compile=jit_compile,
        input_signature=[
            tf.TensorSpec([None, None, D]),
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None, None]),
        ],
        autograph=False,
    )
    def run(states, targets, weights):
        with tf.GradientTape() as tape:
            tape.watch(states)
            loss = cross_entropy_sum(dynamic, states, targets, weights, chunk_tokens=4)
        forward = cross_entropy_sum(dynamic, states, targets, weights, chunk_tokens=4, differentiable=False)
        return loss, *tape.gradient(loss, [states, HEAD.kernel]), forward

    def dynamic(states):
        flat = tf.matmul(tf.reshape(states, [-1, D]), HEAD.kernel)
        return tf.reshape(flat, [tf.shape(states)[0], tf.shape(states)[1], V])

    states = tf.constant(STATES)
    with tf.GradientTape() as tape:
        tape.watch(states)
        loss = loss_of_all_logits(dynamic, states, TARGETS, WEIGHTS)
    expected = (loss, *tape.gradient(loss, [states, HEAD.kernel]), loss)
    assert_close(run(STATES, TARGETS, WEIGHTS), expected, 1e-6)


def test_evaluation_computes_no_gradients():
    def products(differentiable):
        @tf.function(autograph=False)
        def run(states):
            return cross_entropy_sum(
                HEAD, states, TARGETS, WEIGHTS, chunk_tokens=4, differentiable=differentiable
            )

        graph = run.get_concrete_function(tf.TensorSpec([B, T, D])).graph.as_graph_def()
        nodes = [node for function in graph.library.function for node in function.node_def]
        return sum(node.op == "MatMul" for node in nodes)

    assert products(False) == 1
    assert products(True) == 3


def test_the_default_chunk_fits_in_its_bytes():
    assert chunk_tokens_for(8192) * 8192 * 4 == CHUNK_BYTES
    assert chunk_tokens_for(2**30) == 1


# Inside the training step


@pytest.mark.parametrize(
    ("replicas", "num_microbatches", "jit_compile", "tie_embeddings"),
    [
        pytest.param(1, 1, False, False, id="plain"),
        pytest.param(1, 2, True, True, id="compiled microbatches"),
        pytest.param(2, 2, True, False, id="compiled replicas x microbatches", marks=pytest.mark.slow),
    ],
)
def test_the_training_step_does_not_notice(replicas, num_microbatches, jit_compile, tie_embeddings):
    def run(chunk_tokens, **arguments):
        step = toy_step(tie_embeddings=tie_embeddings, **arguments)
        step.task = CausalLM(loss_chunk_tokens=chunk_tokens)
        return run_steps(step, 2)

    metrics, weights = run(1000)
    ours = run(5, replicas=replicas, num_microbatches=num_microbatches, jit_compile=jit_compile)
    np.testing.assert_allclose(ours[0], metrics, rtol=1e-5)
    for one, other in zip(ours[1], weights, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_evaluation_does_not_notice():
    model = toy_model()

    def evaluate(chunk_tokens):
        task = CausalLM(loss_chunk_tokens=chunk_tokens)
        rows = batches(0, 1)
        return Evaluator(model=model, task=task, batches=lambda: rows, jit_compile=False).evaluate()

    assert evaluate(5) == pytest.approx(evaluate(1000), rel=1e-6)
