import numpy as np
import pytest
import tensorflow as tf

from tfllm.layers.masks import BidirectionalMask
from tfllm.layers.transformer_block import TransformerBlock

SETTINGS = {"num_heads": 2, "head_dim": 4, "intermediate_dim": 12, "activation": "relu", "norm": "layer_norm"}


def make(**changes):
    block = TransformerBlock(**{**SETTINGS, "use_bias": True, "name": "block", **changes})
    block.build((None, None, 8))
    rng = np.random.default_rng(0)
    for weight in block.weights:
        weight.assign(float(weight.path.endswith("scale")) + 0.3 * rng.normal(size=weight.shape))
    return block


@pytest.fixture(scope="module")
def x():
    return tf.constant(np.random.default_rng(1).normal(size=[2, 5, 8]), tf.float32)


@pytest.mark.parametrize("recompute_attention", [False, True])
def test_a_norm_before_or_after(x, recompute_attention):
    mask = BidirectionalMask()
    for placement in ("pre", "post"):
        block = make(norm_placement=placement)
        first, second = block.attention_norm, block.feed_forward_norm
        if placement == "pre":
            y = x + block.attention(first(x), attention_mask=mask)[0]
            y = y + block.feed_forward(second(y))
        else:
            y = first(x + block.attention(x, attention_mask=mask)[0])
            y = second(y + block.feed_forward(y))
        with tf.GradientTape() as tape:
            tape.watch(x)
            result = block(x, attention_mask=mask, recompute_attention=recompute_attention)[0]
        np.testing.assert_allclose(result, y, atol=1e-6)
        assert all(gradient is not None for gradient in tape.gradient(result, [x, *block.weights]))


def test_placements_that_are_not_there():
    with pytest.raises(ValueError, match="norm_placement='both' is not known; use pre or post"):
        make(norm_placement="both")
    with pytest.raises(ValueError, match="parallel_branches=True reads a normalized input"):
        make(norm_placement="post", parallel_branches=True)
