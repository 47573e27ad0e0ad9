import numpy as np
import pytest

from tests.training.toy import toy_model
from tfllm.training.memory import estimate, framework_bytes, slot_bytes
from tfllm.training.optimizers import make_optimizer

SHAPES = [(64, 16), (16, 32), (16,)]
P = 64 * 16 + 16 * 32 + 16
SIZES = {
    "shapes": SHAPES,
    "optimizer": "adamw",
    "num_layers": 6,
    "hidden_dim": 128,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 32,
    "intermediate_dim": 256,
    "gated": True,
    "vocab_size": 1000,
    "rows": 4,
    "seq_len": 512,
    "loss_chunk_tokens": 100_000,
}


def total(**changes):
    return sum(estimate(**{**SIZES, **changes}).values())


@pytest.mark.parametrize("kind", ["adamw", "lion", "sgd", "adafactor"])
def test_slots_are_those_the_optimizer_makes(kind):
    model = toy_model()
    variables = model.trainable_variables
    optimizer = make_optimizer(kind, learning_rate=0.1, variables=variables)
    made = sum(4 * int(np.prod(v.shape)) for v in optimizer.variables if len(v.shape))
    # Adafactor of Keras holds a whole tensor of zeros for each matrix it does not factor, and rows beside.
    assert slot_bytes(kind, [tuple(v.shape) for v in variables]) == pytest.approx(made, rel=0.01)


def test_slots_by_rule():
    assert slot_bytes("sgd", SHAPES, momentum=0.9) == slot_bytes("lion", SHAPES) == 4 * P
    assert slot_bytes("lamb", SHAPES) == slot_bytes("adamw", SHAPES) == 8 * P
    assert slot_bytes("muon", SHAPES) == 4 * (P + 16)
    with pytest.raises(ValueError, match="optimizer kind='adam'"):
        slot_bytes("adam", SHAPES)


def test_each_saving_saves():
    assert total(remat="none") > total(remat="attention") > total(remat="block")
    assert total(loss_chunk_tokens=100, vocab_size=50_000) < total(vocab_size=50_000) - 4 * 1000 * 50_000
    assert total(rows=2, num_microbatches=2) < total()
    assert total(attention_block_size=64) < total()
    assert total(compute_bytes=2) < total()
    assert total(optimizer="lion") == total() - 4 * P
    assert total(averaged_weights=True) == total() + 4 * P


def test_scores_grow_with_the_square_of_the_row():
    """Without blocks; with them, only as the row."""
    whole = [estimate(**{**SIZES, "seq_len": n})["activations"] for n in (1024, 2048, 4096)]
    blocks = [
        estimate(**{**SIZES, "seq_len": n, "attention_block_size": 64})["activations"] for n in (2048, 4096)
    ]
    assert whole[2] / whole[1] > whole[1] / whole[0] > 2.5
    assert blocks[1] / blocks[0] == pytest.approx(2.0, rel=0.01)


def test_the_framework_is_measured():
    assert framework_bytes(0) > 100e6
