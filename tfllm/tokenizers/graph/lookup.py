"""Looking texts up among known ones inside a TensorFlow graph, without a table, which would be a resource."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfllm.tokenizers.graph.constant import constant

_BUCKETS = 2**63 - 1


class Lookup(tf.Module):
    """Finds texts by their hashes.

    Args:
        texts: the known ones, each once.
    """

    def __init__(self, texts: Sequence[bytes]):
        super().__init__(name="lookup")
        known = np.array([*texts] or [b""], dtype=object)
        self._hashes, order = sorted_hashes(known)
        self._texts, self._places = constant(known[order]), constant(order.astype(np.int64))
        self._is_empty = not len(texts)

    def __call__(self, texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return bool and int64 [N] for string [N]: whether each is known, and its place among the known ones."""
        at = nearest(self._hashes, hashes(texts))
        # Comparing the texts as well makes a collision of hashes a miss, never a wrong place.
        found = (tf.gather(self._texts, at) == texts) & (not self._is_empty)
        return found, tf.gather(self._places, at)


def sorted_hashes(texts: np.ndarray) -> tuple[tf.Tensor, np.ndarray]:
    """Return the hashes of texts, bytes as objects [N], as int64 [N], ascending, and int64 [N]: whose they are."""
    with tf.init_scope():
        unsorted = hashes(constant(texts)).numpy()
    order = np.argsort(unsorted, kind="stable")
    return constant(unsorted[order]), order


def hashes(texts: tf.Tensor) -> tf.Tensor:
    """Return int64 [N] for string [N]."""
    return tf.strings.to_hash_bucket_fast(texts, _BUCKETS)


def nearest(ascending: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Return int32 [N]: the first place in an ascending tensor that is not below each value, or else the last one."""
    return tf.minimum(tf.searchsorted(ascending, values), ascending.shape[0] - 1)
