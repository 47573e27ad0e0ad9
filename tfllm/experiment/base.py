"""The base of a tuned model: frozen weights that checkpoints leave out, and by which it is known again."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.config import ExperimentConfig
from tfllm.convert.config_reader import shown
from tfllm.convert.errors import ConvertError
from tfllm.layers.stored_kernel import Int8Kernel, in_block, rounded
from tfllm.peft.targets import low_rank_layers, projections
from tfllm.training.model_checkpoint import model_variables

_ALIKE = 0.9  # cosine of the base's weights with those it was trained on, which may have been quantized since
_MOST_SAMPLED, _SAMPLE = 16, 64


def has_base(config: ExperimentConfig) -> bool:
    """Whether a training leaves weights of its source as they are, which checkpoints then do not hold."""
    return config.peft is not None and config.model.source is not None


def saved_variables(config: ExperimentConfig, model: Any) -> dict[str, Any]:
    """What checkpoints of a training hold of its model, by name: all, or what its base does not."""
    named = model_variables(model)
    if not has_base(config):
        return named
    added = {id(variable) for layer in low_rank_layers(model).values() for variable in layer.variables}
    return {name: v for name, v in named.items() if v.trainable or id(v) in added}


def base_of(config: ExperimentConfig, model: Any) -> dict[str, Any]:
    """What a checkpoint says of its base: what it is called, where it lies, and a sample of its weights."""
    source = str(config.model.source)
    place = None if "://" in source else os.path.abspath(os.path.expanduser(source))
    return {"source": source, "place": place, "sample": sample_of(model)}


def place_of(recorded: Mapping[str, Any], source: str) -> str:
    """Where a base is now: under its name, or where it was when it was recorded."""
    place = recorded.get("place")
    is_there = "://" in source or Path(source).expanduser().exists()
    return place if isinstance(place, str) and not is_there and Path(place).exists() else source


def sample_of(model: Any) -> dict[str, list[float]]:
    """A few weights of some frozen matrices."""
    frozen = [v for v in model.variables if not v.trainable and len(v.shape) == 2 and "/block_" in v.path]
    frozen = [v for v in frozen if v.path.endswith("/kernel")]
    chosen = frozen[:: max(1, math.ceil(len(frozen) / _MOST_SAMPLED))]
    return {v.path.split("/", 1)[1]: _first(v) for v in chosen}


def check_base(sample: Any, model: Any, *, what: str, source: str) -> None:
    """Refuses a base whose weights are not like those that were sampled.

    Args:
        sample: From `sample_of`, of a model whose base was the right one.
        model: The model.
        what: Was trained beside it, for the message.
        source: What the base is called.

    Raises:
        ConvertError: when they are others.
    """
    here = sample_of(model)
    for path, values in sample.items() if isinstance(sample, dict) else ():
        one, other = (np.asarray(each, np.float64) for each in (values, here.get(path, ())))
        scale = np.linalg.norm(one) * np.linalg.norm(other)
        if one.shape != other.shape or (scale and np.dot(one, other) / scale < _ALIKE):
            raise ConvertError(
                f"{what} was trained beside other weights than those of {source}: {shown(path)} differs; give the base"
                " that it was trained on"
            )


def round_base(config: ExperimentConfig, model: Any) -> None:
    """Rounds matrices as `peft.base_dtype` had them stored, so that a model says what its training measured."""
    dtype = getattr(config.peft, "base_dtype", "float32")
    if dtype == "float32":
        return
    for path, projection in projections(model).items():
        if in_block(path):
            projection.kernel.assign(rounded(tf.convert_to_tensor(projection.kernel), dtype))


def _first(variable: Any) -> list[float]:
    values = np.asarray(variable[: _SAMPLE // variable.shape[1] + 1], np.float32)
    if isinstance(variable, Int8Kernel):
        values = values * variable.scale.numpy()
    values = values.reshape(-1)[:_SAMPLE]
    return [float(f"{value:.4g}") for value in values]
