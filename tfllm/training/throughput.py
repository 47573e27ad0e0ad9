"""How much arithmetic a token costs, and how much the device could do."""

from __future__ import annotations

import functools
import re
import time

import tensorflow as tf

from tfllm.training.precision import dtype_policy

# Dense peaks in FLOP/s as published by NVIDIA: of bfloat16, and of float32 as TensorFlow multiplies it, with factors
# in TF32 where the GPU has that. The first name that is found is the GPU's.
_GPU_PEAKS = {
    "H100 PCIe": (756e12, 378e12),
    "H100": (989e12, 494e12),
    "H200 NVL": (835e12, 417e12),
    "GH200": (989e12, 494e12),
    "H200": (989e12, 494e12),
    "A100": (312e12, 156e12),
    "L4": (121e12, 60e12),
    "T4": (65e12, 8.1e12),
    "V100": (125e12, 15.7e12),
}
_WITHOUT_TF32 = ("T4", "V100")


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
    """FLOP/s one device could do: published for known GPUs, measured by a large product on others.

    Args:
        precision: A `training.precision` value.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return _measured_flops(2048, "float32")
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "")
    published = _published_flops(name, precision)
    return published or _measured_flops(8192, dtype_policy(precision).compute_dtype)


def _published_flops(name: str, precision: str) -> float | None:
    """None for a GPU that is not known, or is a slice of one; `L4` is not in `L40S`."""
    known = [key for key in _GPU_PEAKS if re.search(rf"\b{key}\b", name)]
    if not known or re.search(r"\bMIG\b", name):
        return None
    half, single = _GPU_PEAKS[known[0]]
    if precision != "float32":
        return half
    tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
    return single if tf32 or known[0] in _WITHOUT_TF32 else None


@functools.cache
def _measured_flops(size: int, dtype: str) -> float:
    a = tf.cast(tf.random.stateless_normal([size, size], seed=[0, 0]), dtype)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        float(tf.reduce_sum(tf.matmul(a, a)[0]))
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best
