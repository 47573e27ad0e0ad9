"""A SavedModel of TensorFlow Hub: found, loaded, and its variables as those of Keras."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tfllm.models.errors import ModelError


def load_hub_model(handle: str) -> Any:
    """Loads a TF2 SavedModel; under `strategy.scope()`, with variables of that strategy.

    Args:
        handle: A folder with `saved_model.pb`, or a handle that `hub.load` downloads, such as
            `https://tfhub.dev/…` or `https://www.kaggle.com/models/…`.

    Returns:
        What `hub.load` returns. A preprocessor may need the operations of TensorFlow Text, which are there
        afterwards.

    Raises:
        ModelError: when it is not there, cannot be reached, or is no TF2 SavedModel.
    """
    import tensorflow_hub as hub
    import tensorflow_text  # noqa: F401  registers the operations that preprocessors are made of

    try:
        loaded = hub.load(handle)
    except (OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
        raise ModelError(_cannot_load(handle, error)) from None
    if getattr(loaded, "_is_hub_module_v1", False):
        raise ModelError(f"{handle} is in the format of TensorFlow 1; take the model's TF2 SavedModel")
    return loaded


def _cannot_load(handle: str, error: Exception) -> str:
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    if re.match(r"\w+://", handle):
        return (
            f"{handle} cannot be downloaded ({reason}); without a network, download and unpack the model elsewhere,"
            " and give the folder that holds its saved_model.pb"
        )
    return f"{handle} is no SavedModel ({reason}); give the folder that holds saved_model.pb, or a handle"


def concrete_functions(loaded: Any) -> list[Any]:
    """The traces that calling a loaded object chooses from; none where it cannot be called."""
    call = getattr(loaded, "__call__", None)  # noqa: B004  what is wanted is the function
    return list(getattr(call, "concrete_functions", ()))


def takes_training(loaded: Any) -> bool:
    """Whether a loaded object is called with `training`."""
    return "training" in inspect.signature(loaded.__call__).parameters


def describe(loaded: Any) -> str:
    """What a loaded object offers, for messages."""
    calls = [str(call.structured_input_signature[0]) for call in concrete_functions(loaded)]
    signatures = ", ".join(sorted(getattr(loaded, "signatures", {}))) or "none"
    called = f"is called with {'; or with '.join(calls[:3])}" if calls else "cannot be called"
    return f"it {called}, and has the signatures {signatures}"


def keras_variables(loaded: Any, name: str) -> list[keras.Variable]:
    """A loaded object's variables, each as a Keras variable that holds the same `tf.Variable`.

    Paths are the names of the variables under `name`. Blocks called `layer_3`, as those of Hub's BERTs are,
    become `block_03`, so that what counts blocks finds them. Equal names are numbered.

    Args:
        loaded: From `load_hub_model`; its `trainable_variables` are trained.
        name: Of the model.
    """
    trained = {id(variable) for variable in getattr(loaded, "trainable_variables", ())}
    taken: set[str] = set()
    variables = []
    for variable in getattr(loaded, "variables", ()):
        if variable.dtype in (tf.string, tf.resource, tf.variant):
            continue
        *scopes, leaf = _free_path(f"{name}/{_plain_name(variable.name, name)}", taken).split("/")
        with _name_scopes(scopes):
            variables.append(
                keras.Variable(
                    variable, dtype=variable.dtype.name, trainable=id(variable) in trained, name=leaf
                )
            )
    return variables


def _plain_name(name: str, model_name: str) -> str:
    name = name.rpartition(":")[0] or name
    name = re.sub(r"(^|/)layer_(\d+)(?=/)", lambda m: f"{m[1]}block_{int(m[2]):02d}", name)
    return name.strip("/").removeprefix(f"{model_name}/") or "variable"


def _free_path(path: str, taken: set[str]) -> str:
    free, number = path, 0
    while free in taken:
        number += 1
        free = f"{path}_{number}"
    taken.add(free)
    return free


@contextlib.contextmanager
def _name_scopes(names: list[str]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(keras.name_scope(name))
        yield
