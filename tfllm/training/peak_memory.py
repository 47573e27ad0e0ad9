"""The most memory this process has held."""

from __future__ import annotations

import resource
import sys

import tensorflow as tf


def peak_memory_bytes() -> int:
    """The largest memory used so far, in bytes: of the first GPU, or of the process where there is none."""
    gpus = tf.config.list_logical_devices("GPU") if tf.config.list_physical_devices("GPU") else []
    if gpus:
        return int(tf.config.experimental.get_memory_info(gpus[0].name)["peak"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
