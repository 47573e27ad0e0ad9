"""Metrics of language models, from sums."""

from __future__ import annotations

import math
from collections.abc import Mapping


def perplexity(loss: float) -> float:
    """exp of the mean loss in nats a token; infinite where that overflows."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def token_metrics(
    sums: Mapping[str, float], *, accuracy: str = "token_accuracy", tokens: str = "tokens"
) -> dict[str, float]:
    """Return `loss` (nats a token), `perplexity`, how many tokens, and the share that was predicted, if that is known.

    Args:
        sums: `loss`, `weight`, and perhaps `right`, over all tokens.
        accuracy: What the share that was predicted is called.
        tokens: What the number of tokens is called.
    """
    loss = sums["loss"] / sums["weight"]
    share = {accuracy: sums["right"] / sums["weight"]} if "right" in sums else {}
    return {"loss": loss, "perplexity": perplexity(loss), **share, tokens: sums["weight"]}


def bits_per_byte(loss_sum: float, num_bytes: float) -> float:
    """Bits the model needs for a byte of text, whatever the tokenizer.

    Args:
        loss_sum: Sum of the losses in nats over all tokens, ends of documents included.
        num_bytes: UTF-8 bytes those tokens stand for.

    Returns:
        Bits a byte; NaN when there are no bytes.
    """
    return loss_sum / math.log(2) / num_bytes if num_bytes else math.nan
