"""Prefill once, then one loop over a cache of fixed size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfllm.generation.errors import GenerationError
from tfllm.generation.model import Generates
from tfllm.generation.samplers import Sampling, sample
from tfllm.layers.kv_cache import loose_shapes


class Generated(NamedTuple):
    """What a call of `generate_tokens` returns.

    Args:
        token_ids: int32 [B, N], `pad_id` after the end.
        lengths: int32 [B], tokens before the end; a stop token does not count.
    """

    token_ids: tf.Tensor
    lengths: tf.Tensor


def generate_tokens(
    model: Generates,
    token_ids: tf.Tensor,
    padding_mask: tf.Tensor,
    *,
    max_new_tokens: tf.Tensor,
    num_new: int | tf.Tensor,
    sampling: Sampling,
    stop_ids: Sequence[int],
    pad_id: int,
    num_tokens: int | None = None,
) -> Generated:
    """Continues prompts, or answers sources; a pure graph, the same under XLA and in a SavedModel.

    Args:
        model: The model.
        token_ids: int32 [B, P], prompts at the right end (left-padded).
        padding_mask: bool [B, P], true for real tokens; at least one a row.
        max_new_tokens: int32 [B], at most `num_new`.
        num_new: Width N of the result.
        sampling: The settings, one value a row.
        stop_ids: Tokens that end a row.
        pad_id: Fills the result after the end; the token 0 does where the model has no such token.
        num_tokens: Tokens to choose from, the first of the model's; None is all. A model may have more than its
            tokenizer, for round numbers, or fewer, where a tokenizer got tokens that the model never had.

    Returns:
        The new tokens and their number.
    """
    # What the new tokens follow in the decoder: the prompt, or where an encoder reads that, a start token.
    prompt, prompt_mask = model.decoder_prompt(token_ids, padding_mask)
    batch, prompt_slots = tf.shape(prompt)[0], tf.shape(prompt)[1]
    num_slots = prompt_slots + num_new
    hidden, cache = model.prefill(token_ids, padding_mask, num_slots)
    prompt_lengths = tf.reduce_sum(tf.cast(prompt_mask, tf.int32), axis=1)
    first_slot = prompt_slots - prompt_lengths
    num_tokens = model.vocab_size if num_tokens is None else min(num_tokens, model.vocab_size)
    pad_id = known_pad_id(model, pad_id)
    slots, vocabulary = tf.range(num_slots), tf.range(num_tokens)

    def choose(hidden, index, seen, ended, result):
        token = sample(model.logits(hidden)[:, 0, :num_tokens], seen, index, sampling)
        stopped = tf.reduce_any(token[:, None] == tf.constant(list(stop_ids), tf.int32)[None, :], axis=1)
        ended = ended | stopped | (index >= max_new_tokens)
        token = tf.where(ended, pad_id, token)
        here = tf.range(num_new)[None, :] == index
        result = Generated(tf.where(here, token[:, None], result[0]), result[1] + tf.cast(~ended, tf.int32))
        return token, seen | (vocabulary[None, :] == token[:, None]), ended, result

    def body(index, token, seen, ended, result, cache):
        slot = prompt_slots + index - 1
        visible = (slots[None, :] >= first_slot[:, None]) & (slots <= slot)[None, :]
        # A row that has ended stays where it is, or longer neighbours would push it past its context.
        positions = (prompt_lengths + tf.minimum(index, max_new_tokens) - 1)[:, None]
        hidden, cache = model.decode_step(token[:, None], positions, slot, visible, cache)
        token, seen, ended, result = choose(hidden, index, seen, ended, result)
        return index + 1, token, seen, ended, result, cache

    seen = _tokens_seen(prompt, prompt_mask, num_tokens)
    result = Generated(tf.fill([batch, num_new], pad_id), tf.zeros([batch], tf.int32))
    ended = tf.zeros([batch], tf.bool)
    token, seen, ended, result = choose(hidden, tf.constant(0), seen, ended, result)
    state = (tf.constant(1), token, seen, ended, result, cache)
    # Where there is no prompt in a graph, numbers of rows and of slots are not known.
    result_shapes = Generated(tf.TensorShape([None, None]), tf.TensorShape([None]))
    open_rows, row_tensor = tf.TensorShape([None]), tf.TensorShape([None, None])
    invariants = (tf.TensorShape([]), open_rows, row_tensor, open_rows, result_shapes, loose_shapes(cache))
    state = tf.while_loop(
        lambda index, token, seen, ended, *_: (index < num_new) & ~tf.reduce_all(ended),
        body,
        state,
        invariants,
    )
    return state[4]


class Generator:
    """Generates from Python: buckets lengths, compiles once a bucket.

    Args:
        model: The model.
        stop_ids: Tokens that end a row.
        pad_id: Fills up rows.
        num_tokens: As in `generate_tokens`.
        jit_compile: Compile with XLA.
        label: Gives the name of a token, for errors.
    """

    def __init__(
        self,
        model: Generates,
        *,
        stop_ids: Sequence[int],
        pad_id: int,
        num_tokens: int | None = None,
        jit_compile: bool = True,
        label: Callable[[int], str] | None = None,
    ):
        self.model = model
        self.pad_id = known_pad_id(model, pad_id)
        self._label = label
        self.num_traces = 0

        def run(token_ids, padding_mask, max_new_tokens, sampling, num_new):
            self.num_traces += 1  # Python: runs when TensorFlow traces, not when it calls
            return generate_tokens(
                model,
                token_ids,
                padding_mask,
                max_new_tokens=max_new_tokens,
                num_new=num_new,
                sampling=sampling,
                stop_ids=stop_ids,
                pad_id=pad_id,
                num_tokens=num_tokens,
            )

        self._run = tf.function(run, jit_compile=jit_compile, autograph=False)

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 0.95,
        repetition_penalty: float = 1.0,
        seed: int | Sequence[int] = 0,
    ) -> list[list[int]]:
        """Continues token ids.

        Args:
            prompts: Token ids, at least one a prompt; lengths may differ.
            max_new_tokens: Tokens to add at most.
            temperature: 0 takes the likeliest token.
            top_k: 0 keeps all.
            top_p: In (0, 1].
            repetition_penalty: 1 is off.
            seed: One for all rows, or one a row.

        Returns:
            The new token ids of each prompt, without the stop token.

        Raises:
            GenerationError: when a setting is out of range, a prompt is empty, holds a token that the model has
                not, or does not fit the context with the new tokens.
        """
        if not len(prompts):
            return []
        self._check(prompts, max_new_tokens)
        _check_range("temperature", temperature, temperature >= 0, "must be at least 0")
        _check_range("top_k", top_k, top_k >= 0, "must be at least 0; 0 keeps all")
        _check_range("top_p", top_p, 0 < top_p <= 1, "must be in (0, 1]")
        _check_range("repetition_penalty", repetition_penalty, repetition_penalty > 0, "must be above 0")
        seeds = _checked_seeds(seed, len(prompts))
        width = bucket(max(len(prompt) for prompt in prompts))
        token_ids, padding_mask = left_padded(prompts, width, self.pad_id)
        rows = len(prompts)
        sampling = Sampling(
            temperature=tf.fill([rows], float(temperature)),
            top_k=tf.fill([rows], int(top_k)),
            top_p=tf.fill([rows], float(top_p)),
            repetition_penalty=tf.fill([rows], float(repetition_penalty)),
            seed=tf.constant(seeds),
        )
        limits = tf.fill([rows], max_new_tokens)
        tokens, lengths = self._run(token_ids, padding_mask, limits, sampling, bucket(max_new_tokens))
        return [row[:n].tolist() for row, n in zip(tokens.numpy(), lengths.numpy(), strict=True)]

    def _check(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        _check_range("max_new_tokens", max_new_tokens, max_new_tokens >= 1, "must be at least 1")
        for number, prompt in enumerate(prompts, 1):
            if not len(prompt):
                raise GenerationError(f"prompt {number} has no tokens; start it with the tokenizer's bos_id")
            if min(prompt) < 0:
                raise GenerationError(
                    f"prompt {number} holds the id {min(prompt)}; ids are 0 or more; leave it out"
                )
            if max(prompt) >= self.model.vocab_size:
                unknown = next(i for i in prompt if i >= self.model.vocab_size)
                name = "" if self._label is None else f" {self._label(unknown)!r}"
                raise GenerationError(
                    f"prompt {number} holds the token{name} with id {unknown}; the model has {self.model.vocab_size}"
                    " tokens and none for it; leave it out of the prompt"
                )
            room = self.model.room_after(len(prompt))
            if room is not None and max_new_tokens > room:
                mend = f"write max_new_tokens={room} or less" if room > 0 else "shorten the prompt"
                raise GenerationError(
                    f"prompt {number} has {len(prompt)} tokens; with max_new_tokens={max_new_tokens} it exceeds"
                    f" the context of {self.model.max_seq_len}; {mend}"
                )


def known_pad_id(model: Any, pad_id: int) -> int:
    """A token that rows can be filled with: none of a tokenizer that has more of them than the model."""
    return pad_id if pad_id < model.vocab_size else 0


def _check_range(name: str, value: Any, holds: bool, rule: str) -> None:
    if not holds:
        raise GenerationError(f"{name}={value} {rule}")


def _checked_seeds(seed: int | Sequence[int], rows: int) -> np.ndarray:
    seeds = [seed] * rows if isinstance(seed, (int, np.integer)) else list(seed)
    if len(seeds) != rows:
        raise GenerationError(f"seed has {len(seeds)} for {rows} prompts; give one, or one a prompt")
    smallest, largest = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    for each in seeds:
        _check_range("seed", each, smallest <= each <= largest, f"must be from {smallest} to {largest}")
    return np.asarray(seeds, np.int32)


def left_padded(prompts: Sequence[Sequence[int]], width: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Puts prompts at the right end of rows -> int32 [B, width] and bool [B, width]."""
    token_ids = np.full([len(prompts), width], pad_id, np.int32)
    mask = np.zeros([len(prompts), width], bool)
    for row, prompt in enumerate(prompts):
        token_ids[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = True
    return token_ids, mask


def to_left_padded(token_ids: tf.Tensor, padding_mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Moves the padding of each row, wherever it is, to the left; keeps the order of real tokens.

    Args:
        token_ids: int32 [B, P].
        padding_mask: bool [B, P].

    Returns:
        Both, rearranged.
    """
    order = tf.argsort(tf.cast(padding_mask, tf.int32), axis=1, stable=True)
    return tf.gather(token_ids, order, batch_dims=1), tf.gather(padding_mask, order, batch_dims=1)


def bucket(length: int) -> int:
    """The next power of two, at least 16: lengths in between share one compiled graph."""
    return max(16, 1 << (length - 1).bit_length())


def _tokens_seen(token_ids: tf.Tensor, padding_mask: tf.Tensor, vocab_size: int) -> tf.Tensor:
    """bool [B, V]: the tokens of each prompt."""
    batch, width = tf.shape(token_ids)[0], tf.shape(token_ids)[1]
    rows = tf.repeat(tf.range(batch)[:, None], width, axis=1)
    counts = tf.scatter_nd(
        tf.stack([rows, token_ids], axis=-1), tf.cast(padding_mask, tf.int32), [batch, vocab_size]
    )
    return counts > 0
