"""A text embedding of TensorFlow Hub: strings in, a vector each out."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfllm.models.errors import ModelError
from tfllm.models.hub_model import (
    concrete_functions,
    describe,
    keras_variables,
    load_hub_model,
    takes_training,
)


@keras.saving.register_keras_serializable(package="tfllm")
class HubTextEmbedding(keras.Model):
    """A SavedModel with the interface of text embeddings, trained or frozen; otherwise as `HubEncoder`.

    Strings cannot enter XLA: train with `jit_compile=False`.

    Args:
        handle: A folder with `saved_model.pb`, or a handle of TensorFlow Hub or Kaggle.
        trainable: Train its variables.

    Raises:
        ModelError: when it is not there, or does not embed text.

    Example:
        >>> embedding = HubTextEmbedding(handle="nnlm-en-dim128")
        >>> embedding({"text": tf.constant(["one sentence", "another"])})["pooled"].shape
        TensorShape([2, 128])
    """

    def __init__(self, *, handle: str, trainable: bool = True, name: str = "text_embedding", **kwargs):
        super().__init__(name=name, **kwargs)
        self.handle = handle
        self.loaded = load_hub_model(handle)
        self._check_interface()
        self._takes_training = takes_training(self.loaded)
        self.hidden_dim = _embedding(concrete_functions(self.loaded)[0].structured_outputs).shape[-1]
        self.saved_variables = keras_variables(self.loaded, name)
        self.trainable = trainable
        self.built = True

    def build(self, input_shape=None):
        """Does nothing: the variables were loaded."""

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; the handle is loaded again."""
        return {**super().get_config(), "handle": self.handle, "trainable": self.trainable}

    def call(self, features: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Embeds texts.

        Args:
            features: `text` string [B], UTF-8.
            training: As the SavedModel understands it; only when `trainable`.

        Returns:
            `pooled` float32 [B, D].
        """
        training = bool(training) and self.trainable
        arguments = {"training": training} if self._takes_training else {}
        pooled = _embedding(self.loaded(features["text"], **arguments))
        if training:
            for loss in getattr(self.loaded, "regularization_losses", ()):
                self.add_loss(loss())
        return {"pooled": pooled}

    def _check_interface(self) -> None:
        calls = concrete_functions(self.loaded)
        taken = [call.structured_input_signature[0][:1] for call in calls]
        texts = all(args and getattr(args[0], "dtype", None) == tf.string for args in taken)
        returned = [_embedding(call.structured_outputs) for call in calls]
        if not calls or not texts or any(getattr(each, "dtype", None) != tf.float32 for each in returned):
            raise ModelError(
                f"{self.handle} is no text embedding: {describe(self.loaded)}; one takes strings, [batch], and returns"
                " float32 [batch, dim] (https://www.tensorflow.org/hub/common_saved_model_apis/text)"
            )


def _embedding(outputs: Any) -> Any:
    return outputs.get("default") if isinstance(outputs, dict) else outputs
