"""An encoder of TensorFlow Hub under the contract of our models."""

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

_EXPECTED = (
    "an encoder takes a dict with input_word_ids, input_mask and input_type_ids, int32 [batch, length], and"
    " returns one with sequence_output and pooled_output"
    " (https://www.tensorflow.org/hub/common_saved_model_apis/text)"
)


@keras.saving.register_keras_serializable(package="tfllm")
class HubEncoder(keras.Model):
    """A SavedModel with the interface of Transformer encoders, trained or frozen.

    `hub.KerasLayer` does not work with Keras 3. Its variables are Keras variables here, so that optimizers,
    checkpoints and parameter groups treat them as any other's. What it computes in was fixed when it was
    saved; a `dtype` changes nothing. Make it under `strategy.scope()`.

    Its `regularization_losses`, if any, are added to the model's `losses` in training.

    Args:
        handle: A folder with `saved_model.pb`, or a handle of TensorFlow Hub or Kaggle.
        trainable: Train its variables. Frozen, it computes as in inference also while others are trained.

    Raises:
        ModelError: when it is not there, or is no encoder.

    Example:
        >>> encoder = HubEncoder(handle="bert_en_uncased_L-4_H-512_A-8")
        >>> encoder({"token_ids": tf.constant([[101, 7592, 102]])})["pooled"].shape
        TensorShape([1, 512])
    """

    def __init__(self, *, handle: str, trainable: bool = True, name: str = "encoder", **kwargs):
        super().__init__(name=name, **kwargs)
        self.handle = handle
        self.loaded = load_hub_model(handle)
        self._check_interface()
        self._takes_training = takes_training(self.loaded)
        calls = [call.structured_input_signature[0][0] for call in concrete_functions(self.loaded)]
        self._inputs_taken = sorted({tuple(sorted(call)) for call in calls}, key=len)
        states = concrete_functions(self.loaded)[0].structured_outputs["sequence_output"].shape
        self.hidden_dim = states[-1]
        self.max_seq_len = states[1]  # None where any length is taken
        self.saved_variables = keras_variables(self.loaded, name)
        self.trainable = trainable
        self.built = True

    def build(self, input_shape=None):
        """Does nothing: the variables were loaded."""

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; the handle is loaded again."""
        return {**super().get_config(), "handle": self.handle, "trainable": self.trainable}

    def call(self, features: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Runs whole rows.

        Args:
            features: `token_ids` int32 [B, T]; optional `padding_mask` bool [B, T], `token_type_ids` int32 [B, T]
                (default 0) and, for a SavedModel that was exported from here, `row_seeds` int32 [B]. Others draw
                dropout from a state of TensorFlow's.
            training: As the SavedModel understands it, which is dropout; only when `trainable`.

        Returns:
            `hidden_states` float32 [B, T, D] and `pooled` float32 [B, D].

        Raises:
            ValueError: when there are features that the encoder does not take.
        """
        training = bool(training) and self.trainable
        arguments = {"training": training} if self._takes_training else {}
        outputs = self.loaded(self._inputs(features, training), **arguments)
        if training:
            for loss in getattr(self.loaded, "regularization_losses", ()):
                self.add_loss(loss())
        pooled = outputs["pooled_output" if "pooled_output" in outputs else "default"]
        return {"hidden_states": outputs["sequence_output"], "pooled": pooled}

    def _inputs(self, features: dict[str, tf.Tensor], training: bool) -> dict[str, tf.Tensor]:
        """The features under the names of the interface, as many as the SavedModel takes."""
        token_ids, mask = features["token_ids"], features.get("padding_mask")
        types, row_seeds = features.get("token_type_ids"), features.get("row_seeds")
        given = {
            "input_word_ids": token_ids,
            "input_mask": tf.ones_like(token_ids) if mask is None else mask,
            "input_type_ids": tf.zeros_like(token_ids) if types is None else types,
        }
        if training and row_seeds is not None:
            given["row_seeds"] = row_seeds
        fitting = [names for names in self._inputs_taken if given.keys() >= {*names}]
        names = fitting[-1]  # the most; `_check_interface` saw to it that there is one
        for feature, needed in (("token_type_ids", "input_type_ids"), ("padding_mask", "input_mask")):
            if feature in features and needed not in names:
                raise ValueError(f"{self.handle} takes no {needed}; leave {feature} out")
        for feature in ("segment_ids", "positions"):
            if feature in features:
                raise ValueError(f"an encoder of TensorFlow Hub takes no {feature}; write data.packing=false")
        return {name: tf.cast(given[name], tf.int32) for name in names}

    def _check_interface(self) -> None:
        calls = concrete_functions(self.loaded)
        known = {"input_word_ids", "input_mask", "input_type_ids"}
        taken = [call.structured_input_signature[0][:1] for call in calls]
        good = any(args and isinstance(args[0], dict) and {*args[0]} <= known for args in taken)
        returned = [call.structured_outputs for call in calls]
        good = good and all(isinstance(each, dict) and "sequence_output" in each for each in returned)
        if not good:
            raise ModelError(
                f"{self.handle} is no encoder: {describe(self.loaded)}; {_EXPECTED}. Text in, one vector out is"
                " HubTextEmbedding"
            )
