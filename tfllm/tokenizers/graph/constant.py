"""Constants inside a TensorFlow graph."""

import numpy as np
import tensorflow as tf

# Strings live on the CPU; so does the rest here, else a machine with a GPU would copy each small tensor back
# and forth.
DEVICE = "/CPU:0"


def constant(array: np.ndarray) -> tf.Tensor:
    """Return an eager constant on the CPU, also while a graph is traced; bytes come as objects."""
    with tf.init_scope(), tf.device(DEVICE):
        return tf.constant(array)
