"""A small model of Keras layers under the contract of models: a dict to a dict, and what generation asks for."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="plugin_package")
class Fading(keras.Model):
    """Each state is the sum of the tokens up to it, faded, behind a dense layer.

    What it keeps of a prompt is one such sum, float32 [B, D]: `prefill` computes it, `decode_step` goes on with it.
    """

    reads_prompt_with = "decoder"

    def __init__(self, *, vocab_size, max_seq_len, hidden_dim, memory, name="fading", **kwargs):
        super().__init__(name=name, **kwargs)
        self.vocab_size, self.max_seq_len = vocab_size, max_seq_len
        self.hidden_dim, self.memory = hidden_dim, memory
        shared = {"dtype": self.dtype_policy}
        self.token_embedding = keras.layers.Embedding(
            vocab_size, hidden_dim, name="token_embedding", **shared
        )
        self.mix = keras.layers.Dense(hidden_dim, activation="gelu", name="mix", **shared)
        self.output_projection = keras.layers.Dense(
            vocab_size, use_bias=False, name="output_projection", **shared
        )

    def build(self, input_shape=None):
        self.token_embedding.build((None, None))
        self.mix.build((None, None, self.hidden_dim))
        self.output_projection.build((None, None, self.hidden_dim))

    def call(self, features, training=False):
        hidden = self.mix(self._sums(features["token_ids"], features.get("padding_mask")))
        return {"hidden_states": hidden, "logits": self.logits(hidden)}

    def logits(self, hidden_states):
        return self.output_projection(hidden_states)

    def decoder_prompt(self, token_ids, padding_mask):
        return token_ids, padding_mask

    def room_after(self, prompt_length):
        return self.max_seq_len - prompt_length

    def prefill(self, token_ids, padding_mask, num_slots):
        last = self._sums(token_ids, padding_mask)[:, -1]
        return self.mix(last[:, None]), last

    def decode_step(self, token_ids, positions, slot, slot_mask, cache):
        sums = self.memory * tf.ensure_shape(cache, [None, self.hidden_dim]) + self._sums(token_ids)[:, 0]
        return self.mix(sums[:, None]), sums

    def get_config(self):
        own = ("vocab_size", "max_seq_len", "hidden_dim", "memory")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}

    def _sums(self, token_ids, padding_mask=None):
        """Of the tokens up to each, faded: [B, T] -> [B, T, D]."""
        embedded = self.token_embedding(token_ids)
        if padding_mask is not None:
            embedded *= tf.cast(padding_mask, embedded.dtype)[:, :, None]
        places = tf.range(tf.shape(token_ids)[1])
        ago = places[:, None] - places[None, :]
        shares = tf.where(ago >= 0, self.memory ** tf.cast(tf.maximum(ago, 0), tf.float32), 0.0)
        return tf.einsum("TS,BSD->BTD", tf.cast(shares, embedded.dtype), embedded)
