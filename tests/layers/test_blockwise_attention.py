"""Attention that keeps no scores, grouped or in blocks, beside autodiff of the plain formula."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from tfllm.layers.attention import Attention, AttentionContext, AttentionOptions
from tfllm.layers.blockwise_attention import blockwise_attention
from tfllm.layers.masks import BidirectionalMask, CausalMask
from tfllm.layers.sliced_attention import sliced_attention

B, N, H = 2, 4, 6
# The same attention in both files, by name: groups of 5 queries, and blocks of 4 or 16.
KINDS = {
    "groups": functools.partial(sliced_attention, group_size=5),
    "one_group": sliced_attention,
    "blocks": functools.partial(blockwise_attention, block_size=4),
    "large_blocks": functools.partial(blockwise_attention, block_size=16),
}


def inputs(length, num_kv_heads, dtype=tf.float32):
    rng = np.random.default_rng(length)
    shapes = [[B, length, heads, H] for heads in (N, num_kv_heads, num_kv_heads, N)]
    return [tf.cast(rng.normal(size=shape), dtype) for shape in shapes]


def packed(length):
    """Left padding in the second row, segments of uneven length in both."""
    rng = np.random.default_rng(length)
    padding = np.arange(length)[None] >= np.array([[0], [3]])
    segments = np.sort(rng.integers(0, 3, [B, length])).astype(np.int32)
    return CausalMask(tf.constant(padding), tf.constant(segments)), padding


def plain(query, key, value, mask, scale=H**-0.5, soft_cap=None):
    """The textbook: all scores, in float32."""
    query, key, value = (tf.cast(x, tf.float32) for x in (query, key, value))
    repeats = query.shape[2] // key.shape[2]
    key, value = tf.repeat(key, repeats, axis=2), tf.repeat(value, repeats, axis=2)
    logits = tf.einsum("BTNH,BSNH->BNTS", query, key) * scale
    logits = logits if soft_cap is None else soft_cap * tf.tanh(logits / soft_cap)
    scores = tf.nn.softmax(tf.where(mask.dense(tf.shape(query)[1])[:, None], logits, -1e9), axis=-1)
    return tf.einsum("BNTS,BSNH->BTNH", scores, value)


def with_gradients(attend, query, key, value, upstream, mask):
    with tf.GradientTape() as tape:
        tape.watch([query, key, value])
        output = attend(query, key, value, mask)
    return output, *tape.gradient(output, [query, key, value], upstream)


def assert_equal_to_plain(attend, length, num_kv_heads, wrap=lambda f: f):
    mask, padding = packed(length)
    query, key, value, upstream = inputs(length, num_kv_heads)
    # What padding sees is nobody's business: the plain formula averages all, the future included.
    real = padding[:, :, None, None]
    upstream = upstream * tf.cast(real, tf.float32)

    def run(query, key, value, upstream, padding_mask, segment_ids):
        mask = CausalMask(padding_mask, segment_ids)
        return with_gradients(attend, query, key, value, upstream, mask)

    ours = wrap(run)(query, key, value, upstream, mask.padding_mask, mask.segment_ids)
    theirs = with_gradients(plain, query, key, value, upstream, mask)
    assert np.isfinite(ours[0]).all()
    np.testing.assert_allclose(ours[0] * real, theirs[0] * real, atol=1e-6)
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        # Gradients are sums of up to a few dozen products of size one.
        np.testing.assert_allclose(mine, other, atol=1e-6 * max(1.0, np.abs(other).max()))
        assert np.abs(other).max() > 0.1


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("length", [12, 11])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_those_of_the_formula(kind, length, num_kv_heads):
    assert_equal_to_plain(KINDS[kind], length, num_kv_heads)


@pytest.mark.parametrize("kind", ["groups", "blocks"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_graphs_compute_the_same(kind, jit_compile):
    assert_equal_to_plain(
        KINDS[kind], 11, 2, lambda f: tf.function(f, jit_compile=jit_compile, autograph=False)
    )


def test_blocks_take_any_length_in_one_graph():
    signature = [tf.TensorSpec([None, None, heads, H]) for heads in (N, 2, 2, N)]
    extra = [tf.TensorSpec([None, None], tf.bool), tf.TensorSpec([None, None], tf.int32)]

    def wrap(run):
        return tf.function(run, input_signature=[*signature, *extra], autograph=False)

    for length in (3, 8, 13):
        assert_equal_to_plain(KINDS["blocks"], length, 2, wrap)


def test_no_mask_but_the_causal_one():
    query, key, value, upstream = inputs(11, 2)
    theirs = with_gradients(plain, query, key, value, upstream, CausalMask())
    for attend in KINDS.values():
        ours = with_gradients(attend, query, key, value, upstream, CausalMask())
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-6 * max(1.0, np.abs(other).max()))


TOLD = ("nothing", "padding", "segments", "both")
# Compiled once for each way.
BOTH_WAYS = [
    *((kind, told, None) for kind in KINDS for told in TOLD),
    *((kind, "both", True) for kind in KINDS if kind != "large_blocks"),
]


@pytest.mark.parametrize(("kind", "told", "jit_compile"), BOTH_WAYS)
def test_both_directions_are_those_of_the_formula(kind, told, jit_compile):
    query, key, value, upstream = inputs(11, 2)
    whole, padding = packed(11)
    mask = BidirectionalMask(
        whole.padding_mask if told in ("padding", "both") else None,
        whole.segment_ids if told in ("segments", "both") else None,
    )
    # A padded query may see nobody: zeros here, and the mean of all in the plain formula.
    upstream = upstream * tf.cast(padding[:, :, None, None], tf.float32)

    def run(query, key, value, upstream):
        return with_gradients(KINDS[kind], query, key, value, upstream, mask)

    ours = (run if jit_compile is None else tf.function(run, jit_compile=True, autograph=False))(
        query, key, value, upstream
    )
    theirs = with_gradients(plain, query, key, value, upstream, mask)
    np.testing.assert_allclose(ours[0].numpy()[padding], theirs[0].numpy()[padding], atol=1e-6)
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-6 * max(1.0, np.abs(other).max()))
    causal = with_gradients(plain, query, key, value, upstream, CausalMask(*dataclasses.astuple(mask)))
    assert np.abs(causal[0].numpy() - ours[0].numpy())[padding].max() > 0.1


@pytest.mark.parametrize("window", [1, 3, 6, 30])
@pytest.mark.parametrize("kind", KINDS)
def test_a_window_a_scale_and_a_soft_cap_are_those_of_the_formula(kind, window):
    query, key, value, upstream = inputs(19, 2)
    mask, padding = packed(19)
    real = tf.constant(padding[:, :, None, None], tf.float32)
    for rule in ({}, {"scale": 0.9}, {"scale": 0.9, "soft_cap": 1.3}):
        masked = dataclasses.replace(mask, window=window)
        ours = with_gradients(
            lambda *args, rule=rule: KINDS[kind](*args, **rule), query, key, value, upstream * real, masked
        )
        theirs = with_gradients(
            lambda *args, rule=rule: plain(*args, **rule), query, key, value, upstream * real, masked
        )
        np.testing.assert_allclose(ours[0] * real, theirs[0] * real, atol=1e-6)
        for mine, other in zip(ours[1:], theirs[1:], strict=True):
            # With a window of one, queries have no gradient; both miss zero by the rounding of what cancels.
            np.testing.assert_allclose(mine, other, atol=4e-6 * max(1.0, np.abs(other).max()))


def test_a_window_spares_the_keys_that_nobody_sees():
    """Of keys before every window, nothing is multiplied: blocks are skipped, groups take a part."""
    query, key, value, _ = inputs(64, 2)
    poisoned = tf.concat([tf.fill([B, 8, 2, H], np.nan), key[:, 8:]], 1)
    for kind in (
        lambda *args: sliced_attention(*args, group_size=8),
        lambda *args: blockwise_attention(*args, block_size=8),
    ):
        whole, part = (kind(query, k, value, CausalMask(window=5)) for k in (key, poisoned))
        np.testing.assert_array_equal(whole[:, 16:], part[:, 16:])
        assert np.isnan(part[:, :8]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_that_sees_nobody_gets_zeros_and_gives_none(kind):
    query, key, value, upstream = inputs(11, 2)
    mask = CausalMask(padding_mask=tf.zeros([B, 11], tf.bool))
    for x in with_gradients(KINDS[kind], query, key, value, upstream, mask):
        np.testing.assert_array_equal(x, tf.zeros_like(x))


@pytest.mark.parametrize("kind", KINDS)
def test_large_scores_neither_overflow_nor_move(kind):
    query, key, value, upstream = inputs(11, 4)
    ours = with_gradients(KINDS[kind], query * 1e3, key, value, upstream, CausalMask())
    theirs = with_gradients(plain, query * 1e3, key, value, upstream, CausalMask())
    for mine, other in zip(ours, theirs, strict=True):
        # Logits of a thousand carry an error of 1e-4 in float32, which the exponential passes on.
        np.testing.assert_allclose(mine, other, atol=3e-3 * max(1.0, np.abs(other).max()))


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_keeps_the_softmax_in_float32(kind):
    query, key, value, upstream = inputs(40, 2, tf.bfloat16)
    ours = with_gradients(KINDS[kind], query, key, value, upstream, CausalMask())
    theirs = with_gradients(plain, query, key, value, tf.cast(upstream, tf.float32), CausalMask())
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == tf.bfloat16
        error = np.abs(tf.cast(mine, tf.float32) - tf.cast(other, tf.float32))
        # bfloat16 has 8 bits: 1 in 256 a rounding, and there are a few on the way.
        assert error.max() < 0.02 * max(1.0, np.abs(tf.cast(other, tf.float32)).max())


@pytest.mark.parametrize("mask", [CausalMask(), BidirectionalMask()], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("kind", ["groups", "blocks"])
def test_scores_never_exist_as_a_whole(kind, mask):
    length, size = 64, 8
    attend = {
        "groups": lambda *args: sliced_attention(*args, group_size=size),
        "blocks": lambda *args: blockwise_attention(*args, block_size=size),
    }[kind]
    tensors = inputs(length, 4)
    graph = tf.function(lambda *x: with_gradients(attend, *x, mask), autograph=False)
    concrete = graph.get_concrete_function(*tensors)
    graphs = [concrete.graph, *_inner_graphs(concrete.graph)]
    assert len(graphs) > 1 or kind == "groups"
    widest = 0
    for each in graphs:
        for op in each.get_operations():
            for output in op.outputs:
                if output.shape.rank and output.shape.is_fully_defined():
                    widest = max(widest, output.shape.num_elements())
    # A group's scores [B, N, 8, 64] at most; all of them would be eight times that.
    assert widest <= B * N * size * length


def _inner_graphs(graph):
    for op in graph.get_operations():
        if op.type in ("While", "StatelessWhile"):
            for name in ("cond", "body"):
                inner = (
                    getattr(op, f"_{name}_graph", None) or graph._get_function(op.get_attr(name).name).graph
                )
                yield inner
                yield from _inner_graphs(inner)


def layer_of(block_size):
    options = AttentionOptions(num_heads=N, num_kv_heads=2, head_dim=H, block_size=block_size)
    layer = Attention(options, name="a")
    layer.build((None, None, 10))
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape) * 0.4)
    return layer


def test_the_layer_takes_the_blocks_unless_scores_are_wanted():
    x = tf.constant(np.random.default_rng(0).normal(size=[B, 11, 10]), tf.float32)
    mask, padding = packed(11)
    dense, scores, _ = layer_of(None)(x, context=AttentionContext(mask), return_scores=True)
    assert scores.shape == (B, N, 11, 11)
    for size in (None, 4):
        output, nothing, _ = layer_of(size)(x, context=AttentionContext(mask))
        assert nothing is None
        np.testing.assert_allclose(output[padding], dense[padding], atol=1e-5)
        wanted = layer_of(size)(x, context=AttentionContext(mask), return_scores=True)
        np.testing.assert_array_equal(wanted[0], dense)
        np.testing.assert_array_equal(wanted[1], scores)


def test_a_block_of_the_mask_is_a_part_of_the_whole():
    mask, _ = packed(11)
    whole = mask.dense(11)
    for start, count, first, keys in ((0, 4, 0, 4), (4, 3, 0, 8), (8, 3, 2, 5)):
        part = mask.block(start, count, first, keys)
        np.testing.assert_array_equal(part, whole[:, start : start + count, first : first + keys])
    assert not mask.padded(11, 2).dense(13)[0, :11, 11:].numpy().any()
