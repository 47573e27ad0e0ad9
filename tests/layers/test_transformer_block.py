import numpy as np
import pytest
import tensorflow as tf

from tfllm.layers.attention import AttentionContext, AttentionOptions
from tfllm.layers.dropout import Dropout
from tfllm.layers.feed_forward import FeedForwardOptions
from tfllm.layers.masks import BidirectionalMask, CausalMask
from tfllm.layers.normalization import NormOptions
from tfllm.layers.transformer_block import BlockOptions, Memory, TransformerBlock

ATTENTION = AttentionOptions(num_heads=2, head_dim=4, use_bias=True, output_bias=True)


def make(**changes):
    settings = {
        "attention": ATTENTION,
        "feed_forward": FeedForwardOptions(intermediate_dim=12, activation="relu", use_bias=True),
        "norm": NormOptions(kind="layer_norm", use_bias=True),
        **changes,
    }
    block = TransformerBlock(BlockOptions(**settings), name="block")
    block.build((None, None, 8))
    rng = np.random.default_rng(0)
    for weight in block.weights:
        weight.assign(float(weight.path.endswith("scale")) + 0.3 * rng.normal(size=weight.shape))
    return block


@pytest.fixture(scope="module")
def x():
    return tf.constant(np.random.default_rng(1).normal(size=[2, 5, 8]), tf.float32)


@pytest.fixture(scope="module")
def memory():
    states = tf.constant(np.random.default_rng(2).normal(size=[2, 3, 8]), tf.float32)
    return Memory(states, tf.constant([[[True, True, True]], [[True, True, False]]]))


@pytest.mark.parametrize("recompute_attention", [False, True])
def test_a_norm_before_or_after(x, recompute_attention):
    context = AttentionContext(BidirectionalMask())
    for placement in ("pre", "post"):
        block = make(norm_placement=placement)
        first, second = block.attention_norm, block.feed_forward_norm
        if placement == "pre":
            y = x + block.attention(first(x), context=context).mixed
            y = y + block.feed_forward(second(y))
        else:
            y = first(x + block.attention(x, context=context).mixed)
            y = second(y + block.feed_forward(y))
        with tf.GradientTape() as tape:
            tape.watch(x)
            result = block(x, context=context, recompute_attention=recompute_attention).hidden_states
        np.testing.assert_allclose(result, y, atol=1e-6)
        assert all(gradient is not None for gradient in tape.gradient(result, [x, *block.weights]))


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_between_the_two_it_reads_an_encoder(x, memory, placement):
    block, context = make(cross_attention=ATTENTION, norm_placement=placement), AttentionContext(CausalMask())
    pre = placement == "pre"

    def branch(norm, attend, x):
        return x + attend(norm(x)) if pre else norm(x + attend(x))

    cross = block.cross_attention
    remembered = cross.remember(memory.states)
    y = branch(block.attention_norm, lambda x: block.attention(x, context=context).mixed, x)
    read = AttentionContext(memory.mask)
    y = branch(block.cross_attention_norm, lambda x: cross(x, context=read, memory=remembered).mixed, y)
    y = branch(block.feed_forward_norm, block.feed_forward, y)
    output = block(x, context=context, memory=memory, return_scores=True)
    np.testing.assert_allclose(output.hidden_states, y, atol=1e-6)
    assert output.scores.shape == (2, 2, 5, 5) and output.cross_scores.shape == (2, 2, 5, 3)
    assert not output.cross_scores.numpy()[1, :, :, 2].any() and output.cache is None
    other = memory._replace(states=tf.concat([memory.states[:, :2], memory.states[:, 2:] + 1], 1))
    difference = np.abs(block(x, context=context, memory=other).hidden_states - y).max((1, 2))
    assert difference[0] > 1e-2 and difference[1] < 1e-6


def test_what_is_computed_again_has_the_same_gradients(x, memory):
    block, seeds = make(cross_attention=ATTENTION, dropout=0.4), tf.constant([3, 4])
    context, found = AttentionContext(CausalMask()), []
    for again in (False, True):
        with tf.GradientTape() as tape:
            tape.watch([x, memory.states])
            output = block(x, context=context, memory=memory, row_seeds=seeds, recompute_attention=again)
            total = tf.reduce_sum(output.hidden_states**2)
        found.append([total, *tape.gradient(total, [x, memory.states, *block.weights])])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4, rtol=1e-5)


def test_token_by_token_it_says_what_it_says_at_once(x, memory):
    block = make(cross_attention=ATTENTION)
    whole = block(x, context=AttentionContext(CausalMask()), memory=memory).hidden_states
    first = block(x[:, :2], context=AttentionContext(CausalMask()), memory=memory, num_slots=5)
    np.testing.assert_allclose(first.hidden_states, whole[:, :2], atol=1e-5)
    cache, nothing = first.cache, Memory(None, memory.mask)
    for slot in range(2, 5):
        visible = AttentionContext((tf.range(5) <= slot)[None, None])
        output = block(x[:, slot : slot + 1], context=visible, memory=nothing, cache=cache, slot=slot)
        cache = output.cache
        np.testing.assert_allclose(output.hidden_states[:, 0], whole[:, slot], atol=1e-5)


def test_every_part_is_built_under_its_name():
    block = make(cross_attention=ATTENTION)
    dropouts = {layer.path for layer in block._flatten_layers() if isinstance(layer, Dropout)}
    branches = ("attention", "cross_attention", "feed_forward")
    assert dropouts == {f"block/{name}_dropout" for name in branches}


def test_placements_that_are_not_there():
    with pytest.raises(ValueError, match="norm_placement='both' is not known; use pre or post"):
        make(norm_placement="both")
    with pytest.raises(ValueError, match="parallel_branches=True reads a normalized input"):
        make(norm_placement="post", parallel_branches=True)
    with pytest.raises(ValueError, match="cross_attention has no parallel_branches"):
        make(cross_attention=ATTENTION, parallel_branches=True)
