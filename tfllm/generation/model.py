"""What a model must give to be generated from."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import tensorflow as tf


@runtime_checkable
class Generates(Protocol):
    """A model that `generate_tokens` drives: it reads prompts into a cache, and then one token a row at a time."""

    vocab_size: int
    max_seq_len: int | None  # of prompt and answer together; None has no limit
    reads_prompt_with: str  # decoder, or encoder: which of its parts a prompt goes to

    def decoder_prompt(self, token_ids: tf.Tensor, padding_mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What generated tokens follow in the decoder, int32 and bool [B, P]: the prompt itself, or a start token."""
        ...

    def prefill(
        self, token_ids: tf.Tensor, padding_mask: tf.Tensor, num_slots: int | tf.Tensor
    ) -> tuple[tf.Tensor, Any]:
        """Reads prompts into a new cache of that many slots: the last hidden state, float [B, 1, D], and the cache."""
        ...

    def decode_step(
        self,
        token_ids: tf.Tensor,
        positions: tf.Tensor,
        slot: tf.Tensor,
        slot_mask: tf.Tensor,
        cache: Any,
    ) -> tuple[tf.Tensor, Any]:
        """Runs one new token a row, int32 [B, 1], against the cache: the hidden state and the cache."""
        ...

    def logits(self, hidden_states: tf.Tensor) -> tf.Tensor:
        """Projects float [B, T, D] onto the vocabulary -> float32 [B, T, V]."""
        ...

    def room_after(self, prompt_length: int) -> int | None:
        """How many tokens can follow a prompt of that many; None is any number."""
        ...


def generates(model: Any) -> bool:
    """Whether a model is generated from: it has what that takes, and no layer that tells classes on top."""
    return isinstance(model, Generates) and getattr(model, "head", "causal_lm") == "causal_lm"
