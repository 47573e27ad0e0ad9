"""What the memory of a training step goes to, before any of it is spent."""

from __future__ import annotations

import math
import resource
from collections.abc import Sequence

FLOAT32 = 4

# Matrices a gated feed-forward keeps for its backward pass in tensors of [tokens, F], and a plain one: read
# off XLA's buffer assignment.
_FEED_FORWARD_KEPT = {True: 5, False: 4}
# Room the backward pass of one block takes beside what was kept, in tensors of [tokens, D].
_PASSING = 4


# What compiling a training step leaves in the process, beside the step's own memory, and for each block.
_COMPILER, _COMPILER_A_BLOCK = 0, 0


def framework_bytes(num_layers: int) -> int:
    """What this process takes now, as yet without a model, and what compiling a step will add to it."""
    now = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return now + _COMPILER + _COMPILER_A_BLOCK * num_layers


def slot_bytes(kind: str, shapes: Sequence[tuple[int, ...]], *, momentum: float = 0.0) -> int:
    """Bytes of an optimizer's state.

    Args:
        kind: An `optimizer.type`.
        shapes: Of the trainable weights.
        momentum: Of sgd.

    Raises:
        ValueError: when the optimizer is not known.
    """
    sizes = [math.prod(shape) for shape in shapes]
    if kind in ("adamw", "lamb"):
        count = 2 * sum(sizes)
    elif kind == "lion":
        count = sum(sizes)
    elif kind == "sgd":
        count = sum(sizes) if momentum else 0
    elif kind == "muon":  # its other weights are AdamW's
        count = sum(size if len(shape) == 2 else 2 * size for shape, size in zip(shapes, sizes, strict=True))
    elif kind == "adafactor":  # a row and a column for each matrix
        count = sum(
            sum(shape[-2:]) if len(shape) >= 2 else size for shape, size in zip(shapes, sizes, strict=True)
        )
    else:
        raise ValueError(f"optimizer kind={kind!r} has no known state; add it to slot_bytes")
    return FLOAT32 * count


def estimate(
    *,
    shapes: Sequence[tuple[int, ...]],
    optimizer: str,
    momentum: float = 0.0,
    averaged_weights: bool = False,
    num_layers: int,
    hidden_dim: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    intermediate_dim: int,
    gated: bool,
    vocab_size: int,
    rows: int,
    seq_len: int,
    compute_bytes: int = FLOAT32,
    remat: str = "none",
    loss_chunk_tokens: int,
    attention_block_size: int | None = None,
    num_microbatches: int = 1,
    framework: int = 0,
) -> dict[str, int]:
    """Bytes of a training step compiled by XLA on one device, by part, at its fullest moment.

    Three moments compete: the loss, when all activations are kept and a chunk's logits are there; the
    start of the backward pass, when one block's inside is there beside what is kept; and the update,
    when all gradients are there and no activations. The parts are those of the fullest, and add up.
    What is kept was read off XLA's buffer assignment on CPU; other devices fuse otherwise.

    Args:
        shapes: Of the trainable weights.
        optimizer: As in `slot_bytes`.
        momentum: As in `slot_bytes`.
        averaged_weights: A moving average of the weights is kept.
        num_layers: Blocks.
        hidden_dim: Width D.
        num_heads: Query heads N.
        num_kv_heads: Key and value heads K.
        head_dim: Width of a head H.
        intermediate_dim: Feed-forward width F.
        gated: The feed-forward has a gate.
        vocab_size: Tokens V.
        rows: Rows computed at once, a microbatch.
        seq_len: Tokens a row.
        compute_bytes: Of a number in the compute type: 4, or 2 in mixed precision.
        remat: none, attention or block.
        loss_chunk_tokens: Tokens whose logits exist at once, at most.
        attention_block_size: Keys whose scores exist at once; None is whole rows.
        num_microbatches: More than one add up in gradients of their own.
        framework: What the process takes without a model, measured.

    Returns:
        Bytes by part: framework, weights, optimizer, averaged weights, gradients, activations, loss, batch.
    """
    tokens = rows * seq_len
    weights = FLOAT32 * sum(map(math.prod, shapes))
    widths = {"hidden_dim": hidden_dim, "heads": num_heads * head_dim, "kv": num_kv_heads * head_dim}
    scores = FLOAT32 * rows * num_heads * seq_len * min(seq_len, attention_block_size or seq_len)
    kept_scores = scores if attention_block_size is None else FLOAT32 * tokens * num_heads
    line = compute_bytes * tokens * hidden_dim
    # Both norms' results, the sum between the branches, and the sum that leaves; query and output of
    # attention; key and value; the feed-forward's inside.
    inside = (
        compute_bytes
        * tokens
        * (
            4 * widths["hidden_dim"]
            + 2 * widths["heads"]
            + 2 * widths["kv"]
            + _FEED_FORWARD_KEPT[gated] * intermediate_dim
        )
    )
    whole = inside + kept_scores
    kept = {"none": whole, "attention": inside, "block": line}[remat] * num_layers
    opened = {"none": 0, "attention": kept_scores, "block": whole}[remat]
    output = FLOAT32 * vocab_size * hidden_dim
    logits = FLOAT32 * vocab_size * _even_chunk(tokens, loss_chunk_tokens)
    chunked = tokens > loss_chunk_tokens
    moments = [
        # A chunk's logits and their gradient; the gradient by the output weights, and a chunk's share of it.
        {"activations": kept + line, "loss": 2 * logits, "gradients": output * (2 if chunked else 1)},
        {"activations": kept + opened + scores + _PASSING * line, "loss": 0, "gradients": output},
        {"activations": line, "loss": 0, "gradients": weights},
    ]
    fullest = max(moments, key=lambda moment: sum(moment.values()))
    fullest["gradients"] += weights if num_microbatches > 1 else 0
    return {
        "framework": framework,
        "weights": weights,
        "optimizer": slot_bytes(optimizer, shapes, momentum=momentum),
        "averaged weights": weights if averaged_weights else 0,
        "gradients": fullest["gradients"],
        "activations": fullest["activations"],
        "loss": fullest["loss"],
        # Ids, targets, weights, segments, positions; 4 bytes each, and the next batch is read ahead.
        "batch": 2 * 5 * 4 * tokens * num_microbatches,
    }


def _even_chunk(tokens: int, limit: int) -> int:
    return -(-tokens // -(-tokens // limit))
