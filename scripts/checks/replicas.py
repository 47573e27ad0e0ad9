"""Check that two replicas train as one device does, with clipping, dropout and uneven loss weights.

    python -m scripts.checks.replicas [--steps 50] [--seed 0]

Trains the same small decoder on the same batches on one device and mirrored over two logical CPU devices,
in float32, and prints the largest relative differences. Rounding alone grows along the steps; an error in
the order of summing, dividing and clipping shows at the first.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from tfllm.models.decoder import Decoder
from tfllm.tasks.causal_lm import CausalLM
from tfllm.training.distribution import mirrored, one_device
from tfllm.training.optimizers import make_optimizer
from tfllm.training.train_step import TrainStep
from tfllm.training.update_rules import AdamW

VOCAB, LENGTH, BATCH = 64, 16, 8
CLIP_NORM = 0.5
TOLERANCE = 1e-5  # what float32 rounding may grow to over the steps


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when the losses agree, 1 when they do not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=50, help="updates to compare")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and dropout")
    options = parser.parse_args(argv)
    # The mirrored strategy first: its logical devices must be made before TensorFlow starts.
    strategy = mirrored(2)
    data = make_batches(options.steps, options.seed)
    two = train(strategy, data, options.seed)
    one = train(one_device(), data, options.seed)
    difference = np.abs(two - one) / np.abs(one)
    shares = [batch["loss_weights"].numpy().reshape(2, -1).sum(axis=1) for batch in data]
    clipped = np.mean(one[:, 1] > CLIP_NORM)
    print(f"{options.steps} steps, {clipped:.0%} of them clipped; loss {one[0, 0]:.4f} -> {one[-1, 0]:.4f}")
    print(
        f"weight of one replica's rows over the other's: up to {max(s.max() / s.min() for s in shares):.1f}"
    )
    print(
        f"largest relative difference of the loss: {difference[:, 0].max():.2e} (first {difference[0, 0]:.2e})"
    )
    print(f"largest relative difference of the gradient norm: {difference[:, 1].max():.2e}")
    agree = difference[:, 0].max() < TOLERANCE
    print("EQUAL" if agree else "DIFFERENT")
    return 0 if agree else 1


def make_batches(steps: int, seed: int) -> tf.data.Dataset:
    """Batches whose second half of rows weighs much more than the first."""
    rng = np.random.default_rng(seed)
    weights = rng.random([steps, BATCH, LENGTH]) * np.linspace(0.05, 2.0, BATCH)[:, None]
    tokens = rng.integers(0, VOCAB, [steps, BATCH, LENGTH + 1]).astype(np.int32)
    row_seeds = np.arange(steps * BATCH, dtype=np.int32).reshape(steps, BATCH)
    features = {
        "token_ids": tokens[..., :-1],
        "targets": tokens[..., 1:] // 4,  # something to learn
        "loss_weights": weights.astype(np.float32),
        "row_seeds": row_seeds,
    }
    return tf.data.Dataset.from_tensor_slices(features)


def train(strategy: tf.distribute.Strategy, data: tf.data.Dataset, seed: int) -> np.ndarray:
    """Returns loss and gradient norm of each step, float64 [steps, 2]."""
    keras.utils.set_random_seed(seed)
    with strategy.scope():
        model = Decoder(
            vocab_size=VOCAB, num_layers=2, hidden_dim=32, num_heads=4, max_seq_len=LENGTH, dropout=0.1
        )
        model.build()
        variables = model.trainable_variables
        optimizer = make_optimizer(AdamW(), learning_rate=3e-3, weight_decay=0.1, variables=variables)
    step = tf.function(
        TrainStep(
            model=model,
            task=CausalLM(),
            optimizer=optimizer,
            strategy=strategy,
            clip_norm=CLIP_NORM,
            jit_compile=False,
        )
    )
    if strategy.num_replicas_in_sync > 1:
        data = strategy.experimental_distribute_dataset(data)
    metrics = np.array([step(batch).numpy() for batch in data], np.float64)
    return np.stack([metrics[:, 0] / metrics[:, 1], metrics[:, 2]], axis=1)


if __name__ == "__main__":
    sys.exit(main())
