"""A tiny model, batches with uneven weights, and the pieces of a run around them."""

import numpy as np
import tensorflow as tf

from tests.tiny import randomized
from tests.training.rules import optimizer_of
from tfllm.data.pipeline import training_batches
from tfllm.models.decoder import Decoder
from tfllm.tasks.causal_lm import CausalLM
from tfllm.training.distribution import mirrored, one_device
from tfllm.training.loss_scale import LossScale
from tfllm.training.train_step import TrainStep

VOCAB, LENGTH, BATCH = 17, 6, 8
# How a global batch may be divided: each must train as one device with the whole of it does.
DIVISIONS = {
    "2 replicas": {"replicas": 2},
    "4 microbatches": {"num_microbatches": 4},
    "2 x 2": {"replicas": 2, "num_microbatches": 2},
}
MODEL_ARGUMENTS = ("dropout", "dtype", "remat", "tie_embeddings")


def toy_model(seed=0, dtype="float32", **arguments):
    settings = {"vocab_size": VOCAB, "num_layers": 1, "hidden_dim": 8, "num_heads": 2, "max_seq_len": LENGTH}
    settings |= {"activation": "gelu_tanh", "use_bias": True, **arguments}
    return randomized(Decoder(**settings, dtype=dtype), seed=seed)


def batch(step):
    """Rows whose loss weights add up to very different numbers, from none to all."""
    rng = np.random.default_rng(step)
    weights = rng.random([BATCH, LENGTH]) * rng.integers(0, 2, [BATCH, LENGTH])
    weights[0] = 0.0
    weights[-2:] = 3.0
    return {
        "token_ids": rng.integers(0, VOCAB, [BATCH, LENGTH]).astype(np.int32),
        "targets": rng.integers(0, VOCAB, [BATCH, LENGTH]).astype(np.int32),
        "loss_weights": weights.astype(np.float32),
        "row_seeds": (np.arange(BATCH) + step * BATCH).astype(np.int32),
    }


def batches(start=0, stop=50):
    everything = [batch(step) for step in range(start, stop)]
    stacked = {name: np.stack([b[name] for b in everything]) for name in everything[0]}
    return tf.data.Dataset.from_tensor_slices(stacked)


def toy_step(
    model=None,
    *,
    optimizer="sgd",
    replicas=1,
    num_microbatches=1,
    clip_norm=0.1,
    jit_compile=False,
    skip_above=None,
    precision="float32",
    strategy=None,
    task=None,
    make=toy_model,
    allocate=None,
    **arguments,
):
    strategy = strategy or one_device() if replicas == 1 else mirrored(replicas)
    with strategy.scope():
        made = {name: arguments.pop(name) for name in MODEL_ARGUMENTS if name in arguments}
        model = model or make(**{"dropout": 0.25, **made})
        settings = {"learning_rate": 0.5, **arguments}
        built = optimizer_of(optimizer, variables=model.trainable_variables, **settings)
        loss_scale = LossScale() if precision == "mixed_float16" else None
    ranks = None if allocate is None else allocate(model)
    return TrainStep(
        model=model,
        task=task or CausalLM(),
        optimizer=built,
        strategy=strategy,
        clip_norm=clip_norm,
        skip_above=skip_above,
        loss_scale=loss_scale,
        num_microbatches=num_microbatches,
        penalty=None if ranks is None else ranks.penalty,
        after_update=None if ranks is None else ranks.changes,
        jit_compile=jit_compile,
    )


def run_steps(step, count, data=None):
    """Takes steps; returns metrics float32 [count, 11] and the weights after them."""
    data = batches(0, count) if data is None else data
    if step.strategy.num_replicas_in_sync > 1:
        data = step.strategy.experimental_distribute_dataset(data)
    call = (
        tf.function(step, autograph=False) if count > 2 or step.strategy.num_replicas_in_sync > 1 else step
    )  # tracing takes long
    metrics = np.stack([call(features).numpy() for features in data])
    return metrics, [v.numpy() for v in step.model.trainable_variables]


def trained_on_rows(task, store, make, *, learning_rate=0.5, **arguments):
    """Takes three steps of four of a task's rows, with dropout; `make` takes the dropout and gives the model."""
    step = toy_step(
        task=task,
        make=lambda **made: make(made["dropout"]),
        learning_rate=learning_rate,
        weight_decay=0.1,
        **arguments,
    )
    rows = training_batches(
        store, global_batch_size=4, seed=1, num_steps=3, transform=task.features, aligned=task.aligned
    )
    return run_steps(step, 3, rows)


def assert_same_training(one, other, *, rtol=3e-6, atol=1e-6):
    """What two trainings said and became is the same; `atol` is that of the weights."""
    (metrics, weights), (others, spread) = one, other
    np.testing.assert_allclose(others, metrics, rtol=rtol, atol=1e-6)
    for ours, theirs in zip(weights, spread, strict=True):
        np.testing.assert_allclose(theirs, ours, atol=atol)


def assert_computed_again_alike(make, remat):
    """Gradients with `remat` are those without; `make(remat=…)` gives the model."""
    features = {name: tf.constant(x) for name, x in next(iter(batches(0, 1).as_numpy_iterator())).items()}
    found = []
    for kept in ("none", remat):
        model = make(remat=kept)
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(model(features, training=True)["logits"] ** 2)
        found.append(tape.gradient(total, [v.value for v in model.trainable_variables]))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
