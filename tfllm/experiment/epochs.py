"""Passes over the rows of a training → its steps."""

from __future__ import annotations

import math
from collections.abc import Callable

from tfllm.config import ExperimentConfig, config_from_mapping
from tfllm.config.build import to_mapping


def with_steps(
    config: ExperimentConfig, num_rows: int, *, notify: Callable[[str], None] = print
) -> ExperimentConfig:
    """Puts the steps that `training.epochs` comes to in its place, and an evaluation after each where none is said.

    Args:
        config: The experiment.
        num_rows: To train on.
        notify: Receives how many steps there are.

    Raises:
        ConfigError: when what the steps must fit does not, such as a schedule's warmup.
    """
    training = config.training
    if training.epochs is None:
        return config
    steps = max(1, math.ceil(training.epochs * num_rows / training.global_batch_size))
    an_epoch = max(1, math.ceil(num_rows / training.global_batch_size))
    notify(
        f"{training.epochs:g} epochs of {num_rows:,} rows: {steps:,} steps of {training.global_batch_size}"
    )
    mapping = to_mapping(config)
    mapping["training"] |= {
        "epochs": None,
        "steps": steps,
        "evaluate_every": training.evaluate_every or min(an_epoch, steps),
    }
    return config_from_mapping(mapping, source="the config with the steps of its epochs")
