"""Looking into a step that failed: its weights and its batch, operation by operation."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.training.gradients import loss_of_batch

_SHOWN = 5
_PACKAGE = Path(__file__).resolve().parents[1]


def save_batch(path: Path, features: Mapping[str, Any]) -> None:
    """Writes a batch as an `.npz` file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in features.items()}
    np.savez(path, **arrays)


def load_batch(path: Path) -> dict[str, tf.Tensor]:
    """Reads a batch that `save_batch` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: tf.constant(arrays[name]) for name in arrays.files}


def explain_step(
    model: Any, task: Any, variables: list[Any], features: dict[str, tf.Tensor]
) -> Iterator[str]:
    """Runs forward and backward without a graph, and says where numbers stop being finite.

    Args:
        model: The model, with the weights that it had before the step.
        task: Gives the loss.
        variables: The model's variables that are trained.
        features: The step's batch.

    Yields:
        Lines of text.
    """
    broken = [v.path for v in model.variables if not np.isfinite(v.numpy()).all()]
    if broken:
        yield f"weights that were not finite before the step: {', '.join(broken)}"
    loss_sum, weight_sum, gradients = _forward_and_backward(model, task, variables, features)
    loss = float(loss_sum) / float(weight_sum) if weight_sum else float(loss_sum)
    yield f"loss {loss:g} over a weight of {float(weight_sum):g}"
    yield from _describe_gradients(variables, gradients, float(weight_sum))
    yield _first_bad_operation(model, task, variables, features)


def _forward_and_backward(model, task, variables, features):
    with tf.GradientTape() as tape:
        loss_sum, weight_sum = loss_of_batch(model, task, features)
    gradients = tape.gradient(
        loss_sum, [v.value for v in variables], unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return loss_sum, weight_sum, [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradients]


def _describe_gradients(variables: list[Any], gradients: list[tf.Tensor], weight: float) -> Iterator[str]:
    norms = np.array([float(tf.norm(g)) / (weight or 1.0) for g in gradients])
    bad = [v.path for v, norm in zip(variables, norms, strict=True) if not np.isfinite(norm)]
    if bad:
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        yield f"gradients that are not finite: {', '.join(bad[:_SHOWN])}{more}"
    else:
        yield f"gradient norm {np.sqrt(np.square(norms).sum()):g}, every number finite"
    order = sorted(np.flatnonzero(np.isfinite(norms)), key=lambda i: -norms[i])[:_SHOWN]
    if order:
        yield "largest finite gradients: " + ", ".join(f"{variables[i].path} {norms[i]:.3g}" for i in order)


def _first_bad_operation(model, task, variables, features) -> str:
    tf.debugging.enable_check_numerics()
    try:
        _forward_and_backward(model, task, variables, features)
    except tf.errors.InvalidArgumentError as error:
        frames = [
            f for f in traceback.extract_tb(error.__traceback__) if _PACKAGE in Path(f.filename).parents
        ]
        place = frames[-1]
        operation = str(error).partition('op "')[2].partition('"')[0] or "an operation"
        where = f"{Path(place.filename).relative_to(_PACKAGE.parent)}:{place.lineno}: {place.line}"
        phase = "backward" if "tape.gradient" in (place.line or "") else "forward"
        return f"the first number that is not finite comes from {operation} in the {phase} pass, {where}"
    finally:
        tf.debugging.disable_check_numerics()
    return "every operation gives finite numbers when run one by one; the failure lies in the compiled step"
