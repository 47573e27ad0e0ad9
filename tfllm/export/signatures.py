"""The two signatures of an exported language model: text in, text out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfllm.export.errors import ExportError
from tfllm.generation.generate import generate_tokens, known_pad_id
from tfllm.generation.model import generates
from tfllm.generation.samplers import Sampling
from tfllm.tokenizers import Tokenizer

# The inputs of `generate` beside the prompt, in order.
SETTINGS = {
    "max_new_tokens": tf.int32,
    "temperature": tf.float32,
    "top_k": tf.int32,
    "top_p": tf.float32,
    "repetition_penalty": tf.float32,
    "seed": tf.int32,
}
# The smallest normal float32, so that a top_p of 0 means the likeliest token and no kernel flushes it to 0.
_SMALLEST_TOP_P = 1.1754944e-38
# Beyond, penalized logits may overflow to infinity, and infinities subtract to NaN.
_PENALTIES = (1e-4, 1e4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What requests may ask for.

    Args:
        context_length: Tokens of prompt and answer together.
        max_new_tokens: Largest `max_new_tokens`; leaves a prompt at least one token.
    """

    context_length: int
    max_new_tokens: int

    @classmethod
    def of(cls, model: Any, max_new_tokens: int) -> Limits:
        """The limits of a model whose requests may ask for `max_new_tokens`, if its context holds them.

        Raises:
            ExportError: when the model is no decoder, `max_new_tokens` is below 1, or the context has no room for
                an answer.
        """
        if not generates(model):
            raise ExportError(
                "an encoder does not generate, nor what tells classes; take tfllm.export.hub_encoder or .classifier"
            )
        if model.reads_prompt_with == "encoder":
            raise ExportError(
                "an encoder-decoder cannot be exported yet; take a decoder, or generate with tfllm.load"
            )
        if max_new_tokens < 1:
            raise ExportError(f"max_new_tokens={max_new_tokens} must be at least 1")
        context = model.max_seq_len or 0
        if context < 2:
            raise ExportError(f"max_seq_len={model.max_seq_len} must be at least 2: a prompt and an answer")
        return cls(context_length=context, max_new_tokens=min(max_new_tokens, context - 1))


def read_defaults(generation: Any, limits: Limits) -> dict[str, int | float]:
    """Reads the attributes named in `SETTINGS`; lowers `max_new_tokens` to the limit."""
    kinds = {tf.int32: int, tf.float32: float}
    defaults = {name: kinds[dtype](getattr(generation, name)) for name, dtype in SETTINGS.items()}
    return {**defaults, "max_new_tokens": min(defaults["max_new_tokens"], limits.max_new_tokens)}


def serving_module(
    model: Any,
    tokenizer: Tokenizer,
    *,
    limits: Limits,
    defaults: dict[str, int | float],
    stop_ids: Sequence[int],
) -> tf.Module:
    """Makes the object that is saved; it holds variables, constants and functions, and no Keras object.

    Args:
        model: Gives `prefill`, `decode_step`, `logits`, `vocab_size` and `variables`, in float32.
        tokenizer: The tokenizer of the model.
        limits: What requests may ask for.
        defaults: The settings of `serving_default`, from `read_defaults`.
        stop_ids: Tokens that end a text.

    Returns:
        A module with the functions `serving_default` and `generate`. Both return `text` string [B], the
        continuation as valid UTF-8; `num_tokens` int32 [B], the tokens generated; and
        `prompt_tokens_dropped` int32 [B].

        Batches mix requests of strangers, so no row fails for what it asks. A prompt longer than
        `context_length - max_new_tokens` tokens, the start token included, keeps its end. Settings out of
        range move to the nearest in range: `max_new_tokens` in [1, limit], `temperature` and `top_k` at
        least 0, `top_p` in (0, 1], `repetition_penalty` in [1e-4, 1e4]; what is not a number, to the lowest.

    Raises:
        ExportError: a prompt may hold a token that the model has not.
    """
    _check_tokens(model, tokenizer)
    pad_id = known_pad_id(model, tokenizer.pad_id)
    module = tf.Module(name="language_model")
    module.weights = {variable.path: variable.value for variable in model.variables}
    module.tokenizer = graph_tokenizer = tokenizer.in_graph()

    def generate(prompt, max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed):
        max_new_tokens = tf.clip_by_value(max_new_tokens, 1, limits.max_new_tokens)
        sampling = _clamped(Sampling(temperature, top_k, top_p, repetition_penalty, seed))
        kept = limits.context_length - max_new_tokens
        token_ids, padding_mask, dropped = _read_prompts(graph_tokenizer, prompt, kept, pad_id)
        generated = generate_tokens(
            model,
            token_ids,
            padding_mask,
            max_new_tokens=max_new_tokens,
            num_new=tf.maximum(tf.reduce_max(max_new_tokens), 1),  # an empty batch has no maximum
            sampling=sampling,
            stop_ids=stop_ids,
            pad_id=pad_id,
            num_tokens=tokenizer.vocab_size,
        )
        ids = tf.RaggedTensor.from_tensor(generated.token_ids, lengths=generated.lengths)
        outputs = {
            "text": graph_tokenizer.decode(ids),
            "num_tokens": generated.lengths,
            "prompt_tokens_dropped": dropped,
        }
        return {name: tf.ensure_shape(x, [None]) for name, x in outputs.items()}

    prompt_spec = tf.TensorSpec([None], tf.string, name="prompt")
    setting_specs = [tf.TensorSpec([None], dtype, name=name) for name, dtype in SETTINGS.items()]

    def serving_default(prompt):
        settings = {name: tf.constant(defaults[name], dtype) for name, dtype in SETTINGS.items()}
        return module.generate(prompt, *(tf.fill(tf.shape(prompt), x) for x in settings.values()))

    module.generate = tf.function(generate, input_signature=[prompt_spec, *setting_specs], autograph=False)
    module.serving_default = tf.function(serving_default, input_signature=[prompt_spec], autograph=False)
    return module


def _check_tokens(model: Any, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that may make tokens out of a prompt which the model has not: no row of a batch may fail."""
    within = {token.id: token.content for token in tokenizer.added_tokens}
    made = {*tokenizer.prefix_ids, *(token.id for token in tokenizer.cut_tokens)}
    unknown = sorted(i for i in made if i >= model.vocab_size)
    if unknown:
        raise ExportError(
            f"the tokenizer's token {within.get(unknown[0])!r} has the id {unknown[0]}, and the model only"
            f" {model.vocab_size} tokens; leave it out of the tokenizer's files, or give the model a row for it"
        )


def _clamped(sampling: Sampling) -> Sampling:
    lowest, highest = _PENALTIES
    temperature, top_p, penalty = sampling.temperature, sampling.top_p, sampling.repetition_penalty
    # Comparing, unlike minimum and maximum, also rids of NaN.
    return Sampling(
        temperature=tf.where(temperature > 0, temperature, 0.0),
        top_k=tf.maximum(sampling.top_k, 0),
        top_p=tf.where(top_p > _SMALLEST_TOP_P, tf.minimum(top_p, 1.0), _SMALLEST_TOP_P),
        repetition_penalty=tf.where(penalty > lowest, tf.minimum(penalty, highest), lowest),
        seed=sampling.seed,
    )


def _read_prompts(
    tokenizer: Any, prompts: tf.Tensor, longest: tf.Tensor, pad_id: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Turns prompts into left-padded rows.

    Args:
        tokenizer: In graph.
        prompts: string [B].
        longest: int32 [B], tokens to keep at most, from the end.
        pad_id: Fills up rows.

    Returns:
        Token ids int32 [B, P], the mask of real ones bool [B, P], and the number dropped int32 [B].
    """
    tokens = tokenizer.encode(prompts)
    if tokenizer.prefix_ids:
        starts = tf.tile([tokenizer.prefix_ids], [tf.size(prompts), 1])
        tokens = tf.concat([starts, tokens], axis=1)
    lengths = tf.cast(tokens.row_lengths(), tf.int32)
    kept = tf.minimum(lengths, longest)
    width = tf.maximum(tf.reduce_max(kept), 1)
    from_end = tf.range(-width, 0)[None, :]
    mask = from_end >= -kept[:, None]
    places = tf.cast(tokens.row_limits(), tf.int32)[:, None] + from_end
    token_ids = tf.gather(tokens.flat_values, tf.where(mask, places, 0))
    return tf.where(mask, token_ids, pad_id), mask, lengths - kept
