"""The trunk: cached is uncached, what is computed again is the same, packed rows are rows apart."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfllm.layers.attention import AttentionOptions
from tfllm.layers.feed_forward import FeedForwardOptions
from tfllm.layers.masks import BidirectionalMask, CausalMask
from tfllm.layers.positions.options import PositionOptions
from tfllm.layers.stack import Stack, Window
from tfllm.layers.transformer_block import BlockOptions, Memory

ATTENTION = AttentionOptions(num_heads=4, head_dim=4, num_kv_heads=2)
BLOCK = BlockOptions(attention=ATTENTION, feed_forward=FeedForwardOptions(intermediate_dim=20))
D, T = 16, 8
RNG = np.random.default_rng(0)
X = tf.constant(RNG.normal(size=[2, T, D]), tf.float32)
STATES = tf.constant(RNG.normal(size=[2, 5, D]), tf.float32)
MEMORY = Memory(STATES, tf.constant([[[True] * 5], [[True] * 3 + [False] * 2]]))
PLACES = tf.tile(tf.range(T)[None], [2, 1])
KINDS = {
    "rotary": {},
    "rotary, local": {
        "positions": {"kind": "rotary", "theta": 50.0, "local_theta": 20.0},
        "window": Window(3, (0,)),
    },
    "learned": {"positions": {"kind": "learned", "max_seq_len": T}, "embedding_norm": True},
    "sinusoidal": {"positions": {"kind": "sinusoidal", "max_seq_len": T}, "final_norm": False},
    "relative, windows": {"positions": {"kind": "relative", "bidirectional": False}, "window": Window(4)},
    "none, post": {"positions": {"kind": "none"}, "block": {"norm_placement": "post"}},
}


def make(positions=None, block=None, **settings):
    block = dataclasses.replace(BLOCK, **(block or {}))
    stack = Stack(
        num_layers=2,
        hidden_dim=D,
        block=block,
        positions=PositionOptions(**(positions or {"kind": "rotary"})),
        name="stack",
        **settings,
    )
    stack.build((None, None, D))
    rng = np.random.default_rng(1)
    for weight in stack.weights:
        weight.assign(float(weight.path.endswith("scale")) + 0.3 * rng.normal(size=weight.shape))
    return stack


@pytest.mark.parametrize("reads", [False, True], ids=["alone", "reads an encoder"])
@pytest.mark.parametrize("kind", KINDS)
def test_cached_is_uncached(kind, reads):
    settings = dict(KINDS[kind])
    if reads:
        settings["block"] = {**settings.get("block", {}), "cross_attention": ATTENTION}
    stack, memory = make(**settings), MEMORY if reads else None
    whole = stack(X, positions=PLACES, attention_mask=CausalMask(), memory=memory).hidden_states
    hidden, cache = stack.prefill(X[:, :3], PLACES[:, :3], CausalMask(), T, memory)
    np.testing.assert_allclose(hidden[:, 0], whole[:, 2], atol=1e-5)
    for slot in range(3, T):
        visible = tf.tile((tf.range(T) <= slot)[None], [2, 1])
        mask = MEMORY.mask if reads else None
        now = slice(slot, slot + 1)
        hidden, cache = stack.step(X[:, now], PLACES[:, now], tf.constant(slot), visible, cache, mask)
        np.testing.assert_allclose(hidden[:, 0], whole[:, slot], atol=1e-5)


@pytest.mark.parametrize(
    "mask",
    [CausalMask(), pytest.param(BidirectionalMask(), marks=pytest.mark.slow)],
    ids=["causal", "both ways"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_computed_again_is_the_same(kind, mask):
    reads = isinstance(mask, CausalMask)
    block = {
        "dropout": 0.3,
        **KINDS[kind].get("block", {}),
        **({"cross_attention": ATTENTION} if reads else {}),
    }
    found = []
    for remat in ("none", "attention", "block"):
        stack = make(**{**KINDS[kind], "block": block, "remat": remat})
        with tf.GradientTape() as tape:
            tape.watch([X, STATES])
            output = stack(
                X,
                positions=PLACES,
                attention_mask=mask,
                memory=MEMORY if reads else None,
                row_seeds=tf.constant([3, 4]),
                training=True,
            ).hidden_states
            total = tf.reduce_sum(output**2)
        sources = [X, *([STATES] if reads else []), *stack.trainable_weights]
        found.append([output, *tape.gradient(total, sources)])
    for other in found[1:]:
        for one, again in zip(found[0], other, strict=True):
            np.testing.assert_allclose(one, again, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("block_size", [None, 3])
@pytest.mark.parametrize("mask", [CausalMask, BidirectionalMask])
def test_blocks_windows_and_segments_are_what_the_table_says(mask, block_size):
    segments = tf.constant([[1, 1, 1, 2, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1, 2, 2]])
    attention = dataclasses.replace(ATTENTION, block_size=block_size)
    stack = make(block={"attention": attention}, window=Window(2, (1,)))
    rule = mask(segment_ids=segments)
    lean = stack(X, positions=PLACES, attention_mask=rule)
    seen = stack(X, positions=PLACES, attention_mask=rule, wanted=["block_00", "block_01"])
    np.testing.assert_allclose(lean.hidden_states, seen.hidden_states, atol=1e-5)
    tables = rule.dense(T).numpy(), dataclasses.replace(rule, window=2).dense(T).numpy()
    for name, table in zip(("block_00", "block_01"), tables, strict=True):
        assert (seen.scores[name].numpy()[~np.broadcast_to(table[:, None], [2, 4, T, T])] == 0).all()
        assert (seen.scores[name].numpy()[np.broadcast_to(table[:, None], [2, 4, T, T])] > 0).all()


def test_its_parts_may_be_built_under_another_name():
    stack = Stack(
        num_layers=1, hidden_dim=D, block=BLOCK, positions=PositionOptions(kind="none"), name="stack"
    )
    stack.build_parts((None, None, D))
    paths = [weight.path for weight in stack.weights]
    assert stack.built and all(not path.startswith("stack") for path in paths)
    assert stack.embedding_dropout.path == "embedding_dropout"
    stack(X, positions=PLACES, attention_mask=CausalMask())
    assert [weight.path for weight in stack.weights] == paths


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"remat": "all"}, "remat='all' is not known; use none, attention, block"),
        ({"positions": {"kind": "sines"}}, "positions='sines' is not known; use learned, sinusoidal"),
        ({"positions": {"kind": "learned"}}, "positions='learned' needs max_seq_len"),
        (
            {
                "positions": {"kind": "relative"},
                "block": {"attention": AttentionOptions(num_heads=2, head_dim=4, block_size=3)},
            },
            "attention_block_size=3 keeps no table of scores",
        ),
    ],
)
def test_what_does_not_go_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_blocks_are_wanted_by_name():
    stack = make()
    assert list(stack.wanted(True)) == ["block_00", "block_01"] and list(stack.wanted(False)) == []
    with pytest.raises(ValueError, match="attention_scores='block_07' is not a block; there are block_00"):
        stack.wanted(["block_07"])
    assert stack.wanted(["block_01"]) == ["block_01"]
