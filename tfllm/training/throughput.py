"""How much arithmetic a token costs, and how much the device could do."""

from __future__ import annotations

import time

import tensorflow as tf

# Dense tensor-core peaks in FLOP/s as published by NVIDIA (bfloat16; float32 runs as TF32 in TensorFlow).
_GPU_PEAKS = {
    "H200": (989e12, 494e12),
    "H100": (989e12, 494e12),
    "A100": (312e12, 156e12),
    "L4": (121e12, 60e12),
    "T4": (65e12, 8.1e12),
    "V100": (125e12, 15.7e12),
}


def training_flops_per_token(*, num_weights: int, num_layers: int, width: int, seq_len: int) -> float:
    """FLOPs of forward and backward for a token (Chowdhery et al. 2022, appendix B).

    Args:
        num_weights: Matrix weights a token passes through, the output projection included, lookups not.
        num_layers: Blocks.
        width: Heads times width of a head.
        seq_len: Tokens a row; every pair is counted, masked or not.
    """
    return 6.0 * num_weights + 12.0 * num_layers * width * seq_len


def peak_flops(precision: str) -> float:
    """FLOP/s the device could do: published for known GPUs, measured by a large product on others.

    Args:
        precision: A `training.precision` value.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "")
        for key, (half, single) in _GPU_PEAKS.items():
            if key in name:
                return single if precision == "float32" else half
    size = 8192 if gpus else 2048
    a = tf.random.stateless_normal([size, size], seed=[0, 0])
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        float(tf.reduce_sum(tf.matmul(a, a)))
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best
