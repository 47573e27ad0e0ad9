"""What the memory of a training step goes to, before any of it is spent."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import keras

from tfllm.training.norms import SMALL
from tfllm.training.update_rules import Rules

FLOAT32 = 4
_READ_AHEAD = 2  # batches: the one in use, and the next
_FEATURES = 6  # int32 or float32 numbers a token of a batch comes with


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepShape:
    """The sizes that the memory of one forward and backward pass follows from.

    Args:
        num_layers: Blocks.
        hidden_dim: Width D.
        num_heads: Query heads N.
        num_kv_heads: Key and value heads K.
        head_dim: Width of a head H.
        intermediate_dim: Feed-forward width F.
        gated: The feed-forward has a gate.
        vocab_size: Tokens V.
        rows: Rows computed at once, a microbatch.
        seq_len: Tokens a row T.
        loss_chunk_tokens: Tokens whose logits exist at once, at most.
        compute_bytes: Of a number in the compute type: 4, or 2 in mixed precision.
        remat: none, attention or block.
        attention_group_size: Queries that meet their keys at once, `sliced_attention.group_size_for`.
        attention_block_size: Tokens in a block of attention; None is groups of queries.
        num_microbatches: Parts the batch is computed in.
    """

    num_layers: int
    hidden_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_dim: int
    gated: bool
    vocab_size: int
    rows: int
    seq_len: int
    loss_chunk_tokens: int
    attention_group_size: int
    compute_bytes: int = FLOAT32
    remat: str = "none"
    attention_block_size: int | None = None
    num_microbatches: int = 1

    @property
    def tokens(self) -> int:
        """Tokens computed at once."""
        return self.rows * self.seq_len

    @property
    def line(self) -> int:
        """Bytes of [B, T, D]."""
        return self.compute_bytes * self.tokens * self.hidden_dim

    @property
    def attention(self) -> int:
        """Bytes the backward pass of attention wants: its input, query, key, value, output, log of sums."""
        copies = 4 if self.attention_block_size else 2  # blocks are kept beside
        widths = self.hidden_dim + copies * (self.num_heads + self.num_kv_heads) * self.head_dim
        return self.tokens * (self.compute_bytes * widths + FLOAT32 * self.num_heads)

    @property
    def feed_forward(self) -> int:
        """Bytes the backward pass of the feed-forward wants: its input, gate, up and their product."""
        widths = self.hidden_dim + (3 if self.gated else 2) * self.intermediate_dim
        return self.compute_bytes * self.tokens * widths

    @property
    def kept(self) -> int:
        """Bytes kept for the backward pass, all blocks; each ends both branches in a sum that is kept."""
        block = {
            "none": self.attention + self.feed_forward + 2 * self.line,
            "attention": self.feed_forward + 2 * self.line,
            "block": self.line,
        }[self.remat]
        return self.num_layers * block

    @property
    def opened(self) -> int:
        """Bytes one block takes in its backward pass, beside what was kept."""
        again = {
            "none": 0,
            "attention": self.attention,
            "block": self.attention + self.feed_forward + self.line,
        }[self.remat]
        gradients = (
            self.line + self.compute_bytes * self.tokens * (2 if self.gated else 1) * self.intermediate_dim
        )
        return again + max(gradients, self.line + self.scores)

    @property
    def scores(self) -> int:
        """Bytes of the scores, probabilities and their gradients that exist at once."""
        if self.attention_block_size is None:
            pairs = min(self.seq_len, self.attention_group_size) * self.seq_len
            return 4 * FLOAT32 * self.rows * self.num_heads * pairs
        pairs = min(self.attention_block_size, self.seq_len) ** 2
        # Query, output and the gradients of query, key and value are held as blocks beside, in float32.
        blocks = self.tokens * (3 * self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        return FLOAT32 * (3 * self.rows * self.num_heads * pairs + blocks)

    @property
    def attention_groups(self) -> int:
        """Groups of queries that are computed one after the other, each with operations of its own."""
        return 1 if self.attention_block_size else -(-self.seq_len // self.attention_group_size)

    @property
    def logits(self) -> int:
        """Bytes of a chunk's logits."""
        count = -(-self.tokens // self.loss_chunk_tokens)
        return FLOAT32 * self.vocab_size * -(-self.tokens // count)

    @property
    def output_kernel(self) -> int:
        """Bytes of the gradient by the output weights while the loss is computed."""
        count = 2 if self.tokens > self.loss_chunk_tokens else 1  # the sum, and a chunk's share
        return count * FLOAT32 * self.vocab_size * self.hidden_dim


def estimate(
    shape: StepShape,
    *,
    weights: int,
    optimizer_state: int,
    trained: int,
    averaged_weights: bool = False,
    framework: int = 0,
    compiler: int = 0,
) -> dict[str, int]:
    """Bytes of a training step compiled by XLA on one device, by part, at its fullest moment.

    Three moments compete: the loss, when all activations are kept and a chunk's logits are there; the
    start of the backward pass, when one block's inside is there beside what is kept; and the update,
    when all gradients are there and no activations. The parts are those of the fullest, and add up.
    What is kept was read off XLA's buffer assignment on CPU; other devices may fuse otherwise, and a step
    that is not compiled keeps more.

    Args:
        shape: The sizes.
        weights: Bytes of the model's weights.
        optimizer_state: Bytes, from `optimizer_bytes`.
        trained: How many numbers are trained.
        averaged_weights: A moving average of the weights is kept.
        framework: Bytes of the process without a model, measured.
        compiler: Bytes from `compiler_bytes`, where they are taken from the same memory.

    Returns:
        Bytes by part: framework, compiler, weights, optimizer, averaged weights, gradients, activations, loss, batch.
    """
    own = FLOAT32 * trained
    moments = [
        {
            "gradients": min(shape.output_kernel, own),
            "activations": shape.kept + shape.line,
            "loss": 2 * shape.logits,
        },
        {
            "gradients": min(FLOAT32 * shape.vocab_size * shape.hidden_dim, own),
            "activations": shape.kept + shape.opened,
            "loss": 0,
        },
        {"gradients": own, "activations": shape.line, "loss": 0},
    ]
    fullest = max(moments, key=lambda moment: sum(moment.values()))
    if shape.num_microbatches > 1:  # their sum
        fullest["gradients"] += own
    return {
        "framework": framework,
        "compiler": compiler,
        "weights": weights,
        "optimizer": optimizer_state,
        "averaged weights": own if averaged_weights else 0,
        **fullest,
        "batch": _READ_AHEAD * _FEATURES * 4 * shape.tokens * shape.num_microbatches,
    }


def optimizer_bytes(rule: Rules, variables: Iterable[keras.Variable]) -> int:
    """Bytes of an optimizer's state, without making it.

    Args:
        rule: As in `make_optimizer`.
        variables: The trained variables.

    Raises:
        TrainingError: when the rule cannot be that of these variables.
    """
    variables = list(variables)
    slots = (
        each.slots(tuple(variable.shape))
        for each, variable in zip(rule.rules(variables), variables, strict=True)
    )
    return FLOAT32 * sum(math.prod(shape) for named in slots for shape in named.values())


def compiler_bytes(shape: StepShape, variables: Iterable[keras.Variable]) -> int:
    """Bytes that tracing and compiling a step leave in the process, on the CPU.

    They follow the number of operations. The coefficients are fitted to peaks that
    `scripts/benchmarks/memory.py` measured with TensorFlow 2.21, of 2 to 12 blocks, and those of matrices to what
    `scripts/benchmarks/tuning.py` measured of 30; they are no theory.

    Args:
        shape: The sizes.
        variables: The trained variables.
    """
    variables = list(variables)
    large = sum(math.prod(variable.shape) > SMALL for variable in variables)  # `norms` cuts them up
    small = sum(len(variable.shape) > 1 for variable in variables) - large
    recomputed = 0 if shape.remat == "none" else 20
    layer = 47 + 14 * (shape.attention_groups - 1) + recomputed
    return 10**6 * (280 + shape.num_layers * layer + 6 * large + 2 * small)
