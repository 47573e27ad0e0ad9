import dataclasses
import math

import pytest

from tests.training.rules import RULES, optimizer_of
from tests.training.toy import toy_model
from tfllm.training.memory import StepShape, compiler_bytes, estimate, optimizer_bytes
from tfllm.training.update_rules import SGD, Lion

SHAPE = StepShape(
    num_layers=6,
    hidden_dim=128,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    intermediate_dim=256,
    gated=True,
    vocab_size=1000,
    rows=4,
    seq_len=512,
    loss_chunk_tokens=100_000,
    attention_group_size=128,
)


def total(**changes):
    return sum(
        estimate(dataclasses.replace(SHAPE, **changes), weights=40, trained=10, optimizer_state=0).values()
    )


@pytest.mark.parametrize("kind", RULES)
def test_the_state_is_what_the_optimizer_makes(kind):
    variables = toy_model().trainable_variables
    optimizer = optimizer_of(kind, learning_rate=0.1, variables=variables)
    made = sum(4 * math.prod(v.shape) for v in optimizer.variables if len(v.shape))
    assert optimizer_bytes(RULES[kind](), variables) == made


def test_momentum_is_a_slot():
    variables = toy_model().trainable_variables
    assert optimizer_bytes(SGD(), variables) == 0
    assert optimizer_bytes(SGD(momentum=0.9), variables) == optimizer_bytes(Lion(), variables)


def test_each_saving_saves():
    assert total(remat="none") > total(remat="attention") > total(remat="block")
    wide = total(vocab_size=50_000)
    assert total(vocab_size=50_000, loss_chunk_tokens=100) < wide - 4 * 1000 * 50_000
    assert total(rows=2, num_microbatches=2) < total()
    assert total(seq_len=4096, attention_block_size=64) < total(seq_len=4096, attention_group_size=512)
    assert total(compute_bytes=2) < total()


def test_the_parts_are_what_is_held():
    plain = estimate(SHAPE, weights=4000, trained=1000, optimizer_state=77, framework=5)
    assert (plain["framework"], plain["weights"], plain["optimizer"]) == (5, 4000, 77)
    averaged = estimate(SHAPE, weights=4000, trained=1000, optimizer_state=77, averaged_weights=True)
    assert averaged["averaged weights"] == 4000
    parts = dataclasses.replace(SHAPE, num_microbatches=2)
    summed = estimate(parts, weights=4000, trained=1000, optimizer_state=77)
    assert summed["gradients"] == plain["gradients"] + 4000


def test_the_fullest_moment_counts():
    """Few tokens and many weights: at the update the gradients are all there, and hardly an activation."""
    tiny = dataclasses.replace(SHAPE, rows=1, seq_len=8)
    parts = estimate(tiny, weights=400_000_000, trained=100_000_000, optimizer_state=0)
    assert parts["gradients"] == 400_000_000
    assert parts["activations"] == tiny.line
    assert estimate(SHAPE, weights=40, trained=10, optimizer_state=0)["activations"] > SHAPE.kept


def test_attention_grows_with_the_square_of_the_row_but_in_blocks():
    whole, blocks = (
        [
            dataclasses.replace(
                SHAPE, seq_len=n, attention_group_size=n // 8, attention_block_size=size
            ).scores
            for n in (4096, 8192)
        ]
        for size in (None, 64)
    )
    assert whole[1] == 4 * whole[0]
    assert blocks[1] < 2.01 * blocks[0]


def test_compiling_takes_more_where_there_are_more_operations():
    variables = toy_model().trainable_variables
    plain = compiler_bytes(SHAPE, variables)
    assert compiler_bytes(dataclasses.replace(SHAPE, num_layers=12), variables) > plain
    assert compiler_bytes(dataclasses.replace(SHAPE, remat="attention"), variables) > plain
    assert compiler_bytes(dataclasses.replace(SHAPE, attention_block_size=64), variables) < plain
    assert estimate(SHAPE, weights=4, trained=1, optimizer_state=0, compiler=plain)["compiler"] == plain
