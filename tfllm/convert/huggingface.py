"""Writing folders that transformers opens: `config.json` and safetensors."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np

from tfllm.convert.checkpoint import CONFIG_FILE, DTYPES
from tfllm.convert.config_table import Arguments
from tfllm.convert.errors import ConvertError
from tfllm.convert.families import FAMILIES
from tfllm.convert.family import Family
from tfllm.convert.new_folder import check_is_new, new_folder
from tfllm.convert.safetensors_files import write_safetensors
from tfllm.convert.weight_table import variables_by_path


def save_model(
    folder: str | Path,
    model: keras.Model,
    arguments: Arguments,
    *,
    model_type: str | None = None,
    dtype: str | None = None,
    extras: Callable[[Path], None] | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Writes a folder that transformers opens.

    Args:
        folder: Must not exist yet, or be empty; it appears when all of it is written.
        model: The model.
        arguments: Those it was made from.
        model_type: The family to write; None takes the first that can say all of the arguments.
        dtype: Type of the weights written; None is the model's own.
        more: Further keys of its config.
        extras: Writes further files into the folder, which it is given.

    Raises:
        ConvertError: when the folder holds something, or no family can say the arguments.
    """
    folder, dtype = Path(folder), dtype or model.variable_dtype
    if dtype not in DTYPES:
        raise ConvertError(f"dtype={dtype!r} is not known; use {', '.join(DTYPES)}")
    check_is_new(folder)
    family, config = written_config(type(model), arguments, model_type)
    with new_folder(folder) as part:
        text = json.dumps({**config, **(more or {}), "torch_dtype": dtype}, indent=2)
        (part / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
        write_safetensors(part, _tensors(model, family, family.kind.resolved(arguments), dtype))
        if extras is not None:
            extras(part)


def fitting_families(model: type[keras.Model], arguments: Arguments) -> Iterator[Family]:
    """Yields the families that can say what a model is, from its class and the arguments it was made from."""
    for name, family in FAMILIES.items():
        if issubclass(model, family.kind.model):
            with contextlib.suppress(ConvertError):
                written_config(model, arguments, name)
                yield family


def written_config(
    model: type[keras.Model], arguments: Arguments, model_type: str | None = None
) -> tuple[Family, dict[str, Any]]:
    """The family that can say what a model is, and what it says.

    Args:
        model: The class of the model.
        arguments: Those it was made from.
        model_type: The family; None takes the first that can say all of them.

    Raises:
        ConvertError: when none can.
    """
    if model_type is not None and model_type not in FAMILIES:
        raise ConvertError(f"model_type={model_type!r} is not known; known are {', '.join(sorted(FAMILIES))}")
    fitting = {name: family for name, family in FAMILIES.items() if issubclass(model, family.kind.model)}
    if model_type is not None and model_type not in fitting:
        kind = FAMILIES[model_type].kind.model.__name__
        raise ConvertError(
            f"model_type={model_type!r} is for a model of class {kind}, and this is of class {model.__name__};"
            f" use {', '.join(sorted(fitting))}"
        )
    if model_type is not None:
        return fitting[model_type], fitting[model_type].write_config(arguments)
    reasons = []
    for family in fitting.values():
        try:
            return family, family.write_config(arguments)
        except ConvertError as error:
            reasons.append(str(error))
    raise ConvertError("no family of checkpoints can say this model:\n  - " + "\n  - ".join(reasons))


def _tensors(
    model: keras.Model, family: Family, arguments: Arguments, dtype: str
) -> Iterator[tuple[str, np.ndarray]]:
    variables = variables_by_path(model)
    prefix = family.prefix if family.heads is not None and family.heads.bare(arguments) else ""
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    for row in family.rows(arguments):
        arrays = [variables[path].numpy() for path in row.ours]
        yield row.theirs.removeprefix(prefix), row.layout.join(arrays).astype(kind)
