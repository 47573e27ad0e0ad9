"""What a training step costs: arithmetic and memory."""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import tensorflow as tf

from tfllm.config import ExperimentConfig
from tfllm.experiment.parts import make_rule
from tfllm.layers.sliced_attention import group_size_for
from tfllm.models.keras_nlp_model import KerasNlpModel
from tfllm.tasks.vocabulary_loss import chunk_tokens_for
from tfllm.training.memory import FLOAT32, StepShape, compiler_bytes, estimate, optimizer_bytes
from tfllm.training.throughput import training_flops_per_token


@runtime_checkable
class Transformer(Protocol):
    """A model of attention and feed-forward blocks that says its sizes; of other models less is known beforehand."""

    vocab_size: int
    max_seq_len: int | None
    num_layers: int
    hidden_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_dim: int
    tie_embeddings: bool
    remat: str
    attention_block_size: int | None


def flops_per_token(model: Any, seq_len: int) -> float:
    """FLOPs of forward and backward for a token of a row of `seq_len`; of other models, only that of matrices.

    A matrix that is frozen costs two thirds: no gradient by it is taken.
    """
    matrices = [v for v in model.variables if len(v.shape) >= 2]
    lookups = [v for v in matrices if v.path.endswith("embeddings")]
    weights = sum(math.prod(v.shape) for v in matrices) - sum(math.prod(v.shape) for v in lookups)
    frozen = sum(math.prod(v.shape) for v in matrices if not (v.trainable or v.path.endswith("embeddings")))
    return _flops_of_all(model, weights, seq_len) - 2.0 * frozen


def _flops_of_all(model: Any, weights: int, seq_len: int) -> float:
    """Where all matrices are trained."""
    if not isinstance(model, Transformer):
        return training_flops_per_token(num_weights=weights, num_layers=0, width=0, seq_len=seq_len)
    if model.tie_embeddings:
        weights += model.vocab_size * model.hidden_dim
    return training_flops_per_token(
        num_weights=weights,
        num_layers=model.num_layers,
        width=model.num_heads * model.head_dim,
        seq_len=seq_len,
    )


def memory_of(config: ExperimentConfig, model: Any, *, framework: int = 0) -> dict[str, int]:
    """Bytes of a training step on one device, by part; without activations and loss where it is no Transformer.

    Args:
        config: The experiment.
        model: From `make_model(..., training=True)`.
        framework: Bytes of the process without a model. On the CPU, compiling takes of the same memory.
    """
    training, averaged = config.training, config.optimizer.ema_decay is not None
    variables, weights = model.trainable_variables, model.count_params()
    trained = sum(math.prod(v.shape) for v in variables)
    state = optimizer_bytes(make_rule(config), variables)
    stored = FLOAT32 * weights - _saved_by_types(model)
    if not isinstance(model, Transformer):
        own = FLOAT32 * trained
        known = {"framework": framework, "weights": stored, "optimizer": state, "gradients": own}
        return {**known, "averaged weights": own} if averaged else known
    share = training.global_batch_size // config.distribution.replicas
    rows = training.microbatch_size or share
    shape = step_shape(
        model,
        rows=rows,
        seq_len=config.data.seq_len,
        loss_chunk_tokens=training.loss_chunk_tokens,
        num_microbatches=max(1, share // rows),
    )
    on_cpu = not tf.config.list_physical_devices("GPU")
    return estimate(
        shape,
        weights=stored,
        trained=trained,
        optimizer_state=state,
        averaged_weights=averaged,
        framework=framework,
        compiler=compiler_bytes(shape, variables) if on_cpu else 0,
    )


def _saved_by_types(model: Any) -> int:
    """Bytes that variables take less than as many in float32."""
    return sum(math.prod(v.shape) * (FLOAT32 - tf.as_dtype(v.dtype).size) for v in model.variables)


def step_shape(
    model: Any, *, rows: int, seq_len: int, loss_chunk_tokens: int | None, num_microbatches: int = 1
) -> StepShape:
    """The sizes of a model's training step; `rows` are those of a microbatch."""
    keras_nlp = model if isinstance(model, KerasNlpModel) else None
    return StepShape(
        num_layers=model.num_layers,
        hidden_dim=model.hidden_dim,
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        intermediate_dim=model.intermediate_dim,
        gated=keras_nlp.gated if keras_nlp else model.blocks[0].feed_forward.gate is not None,
        vocab_size=model.vocab_size,
        rows=rows,
        seq_len=seq_len,
        loss_chunk_tokens=loss_chunk_tokens or chunk_tokens_for(model.vocab_size),
        compute_bytes=4 if model.compute_dtype == "float32" else 2,
        remat=model.remat,
        attention_group_size=seq_len if keras_nlp else group_size_for(seq_len),
        attention_block_size=model.attention_block_size,
        num_microbatches=num_microbatches,
    )
