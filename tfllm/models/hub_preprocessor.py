"""A preprocessor of TensorFlow Hub: strings to the features of an encoder."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfllm.models.errors import ModelError
from tfllm.models.hub_model import concrete_functions, describe, load_hub_model

_FEATURES = {
    "input_word_ids": "token_ids",
    "input_mask": "padding_mask",
    "input_type_ids": "token_type_ids",
}


class HubPreprocessor(tf.Module):
    """A SavedModel with the interface of preprocessors.

    It works in `ds.map`, where it belongs, and in a SavedModel that holds it. Make it outside
    `strategy.scope()`, so that its tables stay on the host.

    Args:
        handle: A folder with `saved_model.pb`, or a handle of TensorFlow Hub or Kaggle.

    Raises:
        ModelError: when it is not there, or is no preprocessor.

    Example:
        >>> preprocessor = HubPreprocessor("bert_en_uncased_preprocess")
        >>> ds = texts.batch(32).map(preprocessor)
    """

    def __init__(self, handle: str):
        super().__init__(name="hub_preprocessor")
        self.handle = handle
        self.loaded = load_hub_model(handle)
        calls = concrete_functions(self.loaded)
        returned = [call.structured_outputs for call in calls]
        if not calls or not all(isinstance(each, dict) and "input_word_ids" in each for each in returned):
            raise ModelError(
                f"{handle} is no preprocessor: {describe(self.loaded)}; one takes strings, [batch], and returns a"
                " dict with input_word_ids, input_mask and input_type_ids, int32 [batch, length]"
                " (https://www.tensorflow.org/hub/common_saved_model_apis/text)"
            )

    def __call__(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """Turns one text a row into features.

        Args:
            texts: string [B], UTF-8.

        Returns:
            `token_ids` int32 [B, T], `padding_mask` bool [B, T] and `token_type_ids` int32 [B, T], of the length
            T that the preprocessor was made for.
        """
        return _as_features(self.loaded(texts))

    def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Takes string [B] -> int32 [B, None] or, grouped by words, [B, None, None], without special tokens."""
        return self._part("tokenize")(texts)

    def pack(
        self, segments: Sequence[tf.RaggedTensor], *, seq_len: int | tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Puts one or two segments a row together, with the special tokens that the encoder expects.

        Args:
            segments: From `tokenize`.
            seq_len: Length T of the rows; what is too long is cut. None is what the preprocessor was made for.

        Returns:
            As `__call__`.
        """
        arguments = {} if seq_len is None else {"seq_length": tf.convert_to_tensor(seq_len, tf.int32)}
        return _as_features(self._part("bert_pack_inputs")(list(segments), **arguments))

    def _part(self, name: str):
        if not hasattr(self.loaded, name):
            raise ModelError(f"{self.handle} has no {name}: it takes single texts only; call it with them")
        return getattr(self.loaded, name)


def _as_features(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    features = {_FEATURES[name]: x for name, x in inputs.items() if name in _FEATURES}
    if "padding_mask" in features:
        features["padding_mask"] = features["padding_mask"] > 0
    return features
