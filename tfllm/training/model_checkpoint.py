"""The model of a checkpoint alone, without what trained it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.training.checkpoint import BUNDLE, Restored, another_model, newest_whole, spec_of
from tfllm.training.checkpoint_folder import checkpoint_paths, checkpoint_step, read_best
from tfllm.training.errors import CheckpointError
from tfllm.training.tensor_bundle import backing_variable, read_tensor

_AVERAGE = "optimizer/ema/"
_UPDATES = "optimizer/updates"


def restore_model(
    folder: str | Path,
    model: Any,
    *,
    best: bool = False,
    leave: Collection[str] = (),
    without: Collection[str] = (),
    resize: Mapping[str, Callable[[np.ndarray, tuple[int, ...]], np.ndarray]] | None = None,
    notify: Callable[[str], None] = print,
) -> Restored:
    """Reads the model's variables alone from a run's newest whole checkpoint, or from its best.

    Where the checkpoint holds an exponential moving average of them, the model gets that: it is what was
    evaluated. A model in another float type than the run's gets its weights cast.

    Args:
        folder: The `checkpoints/` folder of a run.
        model: A built model.
        best: Take the checkpoint that `best.json` names, where there is one.
        leave: Layers, wherever they stand, whose variables stay as they are, e.g. `output_projection`.
        without: Names of variables that stay as they are too.
        resize: Variables that may be of another shape there, by their path inside the model, and what makes the
            shape wanted of their value; None allows none.
        notify: Called with one line when a checkpoint is passed over.

    Raises:
        CheckpointError: when there is none, or it belongs to another model.
    """
    path, manifest = checkpoint_in(folder, best=best, notify=notify)
    saved = manifest["variables"]
    inside = {name: name.removeprefix(f"model/{model.name}/") for name in model_variables(model)}
    variables = {
        name: v
        for name, v in model_variables(model).items()
        if not set(inside[name].split("/")) & set(leave) and name not in without
    }
    wanted = {name: spec_of(backing_variable(v)) for name, v in variables.items()}
    differ = [n for n, spec in wanted.items() if saved.get(n, {}).get("shape") != spec["shape"]]
    resized = {n: resize[inside[n]] for n in differ if resize and inside[n] in resize and n in saved}
    differ = [name for name in differ if name not in resized]
    if differ:
        raise another_model(path, differ, saved, wanted)
    averages = {name: _AVERAGE + name.removeprefix("model/") for name in variables}
    if _UPDATES in saved and not int(read_tensor(path / BUNDLE, _UPDATES, saved[_UPDATES]["dtype"])):
        averages = dict.fromkeys(variables, "")  # no update was applied, so there is no average yet
    for name, variable in variables.items():
        source = averages[name] if averages[name] in saved else name
        value = read_tensor(path / BUNDLE, source, saved[source]["dtype"])
        if name in resized:
            value = resized[name](np.asarray(value), tuple(variable.shape))
        variable.assign(tf.convert_to_tensor(value))
    averaged = any(name in saved for name in averages.values())
    return Restored(manifest["step"], manifest["state"], manifest["about"], path, averaged)


def checkpoint_in(
    folder: str | Path, *, best: bool, notify: Callable[[str], None]
) -> tuple[Path, dict[str, Any]]:
    """The checkpoint that `restore_model` takes, and its manifest, verified; arguments and errors as there."""
    paths = checkpoint_paths(folder)
    recorded = read_best(folder) if best else None
    if recorded is not None:
        paths += [path for path in paths if checkpoint_step(path) == recorded["step"]]
    newest = newest_whole(paths, notify, set())
    if newest is None:
        raise CheckpointError(f"no whole checkpoint in {folder}; train first, or give another run folder")
    return newest


def model_variables(model: Any) -> dict[str, Any]:
    """The model's variables by name in a checkpoint, `model/<path>`."""
    return {f"model/{v.path}": v for v in model.variables}
