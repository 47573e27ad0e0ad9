import numpy as np
import pytest
import tensorflow as tf

from tfllm.layers.embedding import TokenEmbedding, lookup
from tfllm.layers.projection import Projection, project

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("transpose", [False, True])
def test_project_and_its_gradients_equal_einsum(transpose):
    x = tf.Variable(RNG.normal(size=[2, 3, 4]).astype(np.float32))
    kernel = tf.Variable(RNG.normal(size=[5, 4] if transpose else [4, 5]).astype(np.float32))
    weights = RNG.normal(size=[2, 3, 5]).astype(np.float32)
    equation = "BTD,FD->BTF" if transpose else "BTD,DF->BTF"
    results = []
    for product in (
        lambda: project(x, tf.convert_to_tensor(kernel), transpose_kernel=transpose),
        lambda: tf.einsum(equation, x, kernel),
    ):
        with tf.GradientTape() as tape:
            y = product()
            loss = tf.reduce_sum(y * weights)
        results.append([y, *tape.gradient(loss, [x, kernel])])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_projection_adds_its_bias():
    layer = Projection(units=3, use_bias=True, initializer_range=1.0)
    x = RNG.normal(size=[2, 4, 5]).astype(np.float32)
    layer.build(x.shape)
    layer.bias.assign([1.0, 2.0, 3.0])
    np.testing.assert_allclose(layer(x), x @ layer.kernel.numpy() + [1.0, 2.0, 3.0], atol=1e-5)
    assert len(Projection(units=3).weights) == 0


@pytest.mark.parametrize("transpose", [False, True])
def test_parts_of_a_bfloat16_batch_add_up_to_its_gradient(transpose):
    """Summed in bfloat16 they would differ in the third digit."""
    rng = np.random.default_rng(1)
    x = tf.cast(rng.normal(size=[8, 6, 16]), tf.bfloat16)
    kernel = tf.Variable(rng.normal(size=[5, 16] if transpose else [16, 5]).astype(np.float32))
    bias = tf.Variable(rng.normal(size=[5]).astype(np.float32))
    upstream = tf.cast(rng.normal(size=[8, 6, 5]), tf.bfloat16)

    def gradients(rows):
        with tf.GradientTape() as tape:
            tape.watch(x)
            weights = [tf.convert_to_tensor(v) for v in (kernel, bias)]
            y = project(x[rows], *weights, transpose_kernel=transpose)
            loss = tf.reduce_sum(tf.cast(y * upstream[rows], tf.float32))
        assert y.dtype == tf.bfloat16
        return tape.gradient(loss, [kernel, bias, x])

    whole, first, second = (gradients(rows) for rows in (slice(0, 8), slice(0, 4), slice(4, 8)))
    exact = tf.cast(tf.reshape(x, [-1, 16]), tf.float32), tf.cast(tf.reshape(upstream, [-1, 5]), tf.float32)
    by_kernel = tf.matmul(*exact, transpose_a=True)
    np.testing.assert_allclose(whole[0], tf.transpose(by_kernel) if transpose else by_kernel, atol=1e-5)
    np.testing.assert_allclose(whole[1], tf.reduce_sum(exact[1], axis=0), atol=1e-5)
    for total, one, other in zip(whole, first, second, strict=True):
        np.testing.assert_allclose(
            tf.cast(total, tf.float32), tf.cast(one, tf.float32) + tf.cast(other, tf.float32), atol=1e-5
        )


def test_kernels_have_the_deviation_asked_for():
    layer = Projection(units=200, initializer_range=0.5)
    layer.build((None, None, 100))
    assert abs(float(np.std(layer.kernel)) - 0.5) < 0.01


@pytest.mark.parametrize("jit_compile", [False, True])
def test_lookup_and_its_gradient_equal_gather(jit_compile):
    table = tf.Variable(RNG.normal(size=[6, 3]).astype(np.float32))
    ids = tf.constant([[0, 5, 5], [2, 5, 0]])
    weights = RNG.normal(size=[2, 3, 3]).astype(np.float32)

    def value_and_gradient(function):
        with tf.GradientTape() as tape:
            rows = function(tf.convert_to_tensor(table), ids)
            loss = tf.reduce_sum(rows * weights)
        return rows, tf.convert_to_tensor(tape.gradient(loss, table))

    ours = tf.function(lambda: value_and_gradient(lookup), jit_compile=jit_compile, autograph=False)()
    theirs = value_and_gradient(tf.gather)
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-6)


def test_the_gradient_of_a_frequent_token_is_added_in_float32():
    # bfloat16 has 8 bits: added up in it, ones stop counting at 256.
    table = tf.Variable(tf.ones([3, 2], tf.bfloat16))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(
            tf.cast(lookup(tf.convert_to_tensor(table), tf.zeros([4, 1024], tf.int32)), tf.float32)
        )
    gradient = tape.gradient(loss, table)
    assert gradient.dtype == tf.bfloat16
    np.testing.assert_array_equal(gradient, [[4096, 4096], [0, 0], [0, 0]])


def test_a_token_embedding_projects_onto_its_own_table():
    layer = TokenEmbedding(vocab_size=7, hidden_dim=4, initializer_range=1.0)
    ids = np.array([[1, 6]], np.int32)
    table = layer(ids) is not None and layer.embeddings.numpy()
    np.testing.assert_array_equal(layer(ids), table[ids])
    x = RNG.normal(size=[1, 2, 4]).astype(np.float32)
    np.testing.assert_allclose(layer.project(x), x @ table.T, atol=1e-5)
