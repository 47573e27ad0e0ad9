"""The most memory this process has held, and what to do when there is no more."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from tfllm.training.errors import TrainingError


def peak_memory_bytes() -> int:
    """The largest memory used so far, in bytes: of the first GPU, or of the process where there is none."""
    gpus = tf.config.list_logical_devices("GPU") if tf.config.list_physical_devices("GPU") else []
    if gpus:
        return int(tf.config.experimental.get_memory_info(gpus[0].name)["peak"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turns TensorFlow's error about a device without memory left into one that says what to do.

    Raises:
        TrainingError: instead of it.
    """
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        reasons = [line.strip() for line in str(error.message).splitlines() if _says_memory(line)]
        if not reasons:  # a disk can be full too
            raise
        raise TrainingError(
            f"the device has no memory left ({reasons[0]}). Lower training.microbatch_size, set training.remat to"
            " block, or shorten data.seq_len; `tfllm inspect CONFIG` estimates what takes how much. Or another"
            " process holds the device: TensorFlow takes a GPU's whole memory unless TF_FORCE_GPU_ALLOW_GROWTH=true"
            " is set"
        ) from error


def _says_memory(line: str) -> bool:
    return any(word in line for word in ("OOM when allocating", "ut of memory", "failed to allocate"))
