"""Metrics of language models, from sums."""

from __future__ import annotations

import math


def perplexity(loss: float) -> float:
    """exp of the mean loss in nats a token; infinite where that overflows."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def bits_per_byte(loss_sum: float, num_bytes: float) -> float:
    """Bits the model needs for a byte of text, whatever the tokenizer.

    Args:
        loss_sum: Sum of the losses in nats over all tokens, ends of documents included.
        num_bytes: UTF-8 bytes those tokens stand for.

    Returns:
        Bits a byte; NaN when there are no bytes.
    """
    return loss_sum / math.log(2) / num_bytes if num_bytes else math.nan
