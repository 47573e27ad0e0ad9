"""A GPT-2 of tfllm and the step that trains it; its callers start TensorFlow first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfllm.models.decoder import Decoder
from tfllm.training.optimizers import make_optimizer
from tfllm.training.train_step import TrainStep
from tfllm.training.update_rules import AdamW


def make_model(shape: Mapping[str, Any], **more: Any) -> Decoder:
    """Returns a model with new weights, the same ones each time.

    Args:
        shape: `vocab`, `layers`, `width`, `heads` and `seq_len`.
        more: Further arguments of the decoder.
    """
    tf.keras.utils.set_random_seed(0)
    model = Decoder(
        vocab_size=shape["vocab"],
        num_layers=shape["layers"],
        hidden_dim=shape["width"],
        num_heads=shape["heads"],
        max_seq_len=shape["seq_len"],
        norm="layer_norm",
        positions="learned",
        activation="gelu_tanh",
        use_bias=True,
        **more,
    )
    model.build()
    return model


def make_step(model: Any, task: Any) -> TrainStep:
    """Returns a step of AdamW on one device, gradients clipped to norm 1."""
    variables = model.trainable_variables
    return TrainStep(
        model=model,
        task=task,
        optimizer=make_optimizer(AdamW(), learning_rate=3e-4, weight_decay=0.1, variables=variables),
        strategy=tf.distribute.get_strategy(),
        clip_norm=1.0,
    )
