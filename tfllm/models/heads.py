"""What stands on a model: a vector for the row, classes, and the prediction of masked tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfllm.layers.feed_forward import activate
from tfllm.layers.normalization import LayerNorm
from tfllm.layers.projection import Projection, new_weights, project


class Pooler(keras.layers.Layer):
    """A dense layer on the vector of a row, which is that of its first token (Devlin et al. 2019), or another.

    Args:
        activation: tanh (BERT), or one of `FeedForward`'s that has no gate.
        initializer_range: Standard deviation of the new kernel.
    """

    def __init__(self, *, activation: str = "tanh", initializer_range: float = 0.02, **kwargs):
        super().__init__(**kwargs)
        self.activation = activation
        self.initializer_range = initializer_range

    def build(self, input_shape):
        """Makes `dense`."""
        self.dense = Projection(
            units=input_shape[-1],
            use_bias=True,
            initializer_range=self.initializer_range,
            name="dense",
            dtype=self.dtype_policy,
        )
        self.dense.build(input_shape)

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """Takes float [B, D] or, of segments, [B, S, D] -> the same."""
        x = self.dense(vectors[:, None])[:, 0] if vectors.shape.rank == 2 else self.dense(vectors)
        return tf.tanh(x) if self.activation == "tanh" else activate(self.activation, x)


class MaskedLMHead(keras.layers.Layer):
    """Hidden states back to the vocabulary: a dense layer, a norm, and the token embedding turned (Devlin et al. 2019).

    Args:
        vocab_size: Tokens V.
        activation: As in `FeedForward`, without a gate.
        norm_epsilon: Added to the variance.
        tie_embeddings: The output layer is the token embedding; otherwise a kernel of its own. Its bias always is.
        initializer_range: Standard deviation of new kernels.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        activation: str = "gelu",
        norm_epsilon: float = 1e-12,
        tie_embeddings: bool = True,
        initializer_range: float = 0.02,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.activation = activation
        self.tie_embeddings = tie_embeddings
        self.initializer_range = initializer_range
        self.norm = LayerNorm(epsilon=norm_epsilon, name="norm", dtype=self.dtype_policy)

    def build(self, input_shape):
        """Makes `transform`, `norm`, `bias`, float [V], and where it is not tied `kernel`, float [D, V]."""
        width = input_shape[-1]
        self.transform = Projection(
            units=width,
            use_bias=True,
            initializer_range=self.initializer_range,
            name="transform",
            dtype=self.dtype_policy,
        )
        self.transform.build(input_shape)
        self.norm.build(input_shape)
        if not self.tie_embeddings:
            self.kernel = self.add_weight(
                name="kernel",
                shape=(width, self.vocab_size),
                initializer=new_weights(self.initializer_range),
                autocast=False,
            )
        self.bias = self.add_weight(
            name="bias", shape=(self.vocab_size,), initializer="zeros", autocast=False
        )

    def call(self, hidden_states: tf.Tensor, embeddings: tf.Tensor) -> tf.Tensor:
        """Predicts.

        Args:
            hidden_states: float [B, T, D].
            embeddings: float [V, D], the table of the token embedding.

        Returns:
            float [B, T, V].
        """
        x = self.norm(activate(self.activation, self.transform(hidden_states)))
        kernel = embeddings if self.tie_embeddings else tf.convert_to_tensor(self.kernel)
        return project(x, kernel, tf.convert_to_tensor(self.bias), transpose_kernel=self.tie_embeddings)


def of_rows(projection: Projection, vectors: tf.Tensor) -> tf.Tensor:
    """What a layer says of vectors, float [B, D] or of segments [B, S, D] -> float32 [B, C] or [B, S, C]."""
    flat = vectors.shape.rank == 2
    said = projection(vectors[:, None])[:, 0] if flat else projection(vectors)
    return tf.cast(said, tf.float32)


def wrong_classes(arguments: Mapping[str, Any], heads: Sequence[str]) -> str | None:
    """What is wrong about `num_classes`, `class_names` and `multi_label` beside the head of a model, or None.

    Args:
        arguments: Of the model.
        heads: Those that classify.
    """
    head, classes, names = (arguments.get(key) for key in ("head", "num_classes", "class_names"))
    if head in heads and not classes:
        return f"head={head!r} needs num_classes; say how many there are"
    if classes and head not in heads:
        return f"num_classes={classes} needs head={' or head='.join(map(repr, heads))}"
    if names is not None and len(names) != classes:
        return f"class_names has {len(names)} names, and num_classes={classes}; give one for each"
    if arguments.get("multi_label") and (head != "sequence_classification" or (classes or 0) < 2):
        return "multi_label=True needs head='sequence_classification' and num_classes of 2 or more"
    return None
