"""Looking at neighbours in a flat tensor."""

import tensorflow as tf


def shifted(values: tf.Tensor, by: int, fill: int | bool | str) -> tf.Tensor:
    """Return [N] whose entry i is `values[i - by]`, or `fill` where there is none."""
    filler = tf.fill([abs(by)], tf.cast(fill, values.dtype))
    # The slices count from the far end, so that the result keeps its length when it is shorter than the
    # shift.
    if by > 0:
        return tf.concat([filler, values], 0)[: tf.size(values)]
    return tf.concat([values, filler], 0)[-by:]
