"""A checkpoint in one of the formats that are read, and the model in it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np
import tensorflow as tf

from tfllm.convert.config_reader import ConfigReader, shown
from tfllm.convert.config_table import LAYERS, Arguments
from tfllm.convert.errors import ConvertError
from tfllm.convert.families import FAMILIES
from tfllm.convert.family import Family
from tfllm.convert.gguf_file import GgufFile
from tfllm.convert.output_head import with_held_head
from tfllm.convert.read_ahead import ReadAhead
from tfllm.convert.safetensors_files import SafetensorsFiles
from tfllm.convert.tensors import Tensors
from tfllm.convert.weight_table import Row, variables_by_path
from tfllm.json_text import read_json

CONFIG_FILE = "config.json"
DTYPES = ("float32", "bfloat16", "float16")
_SHOWN = 8  # names in a message
_MOST_NOTES, _LONGEST_KEY = 50, 200
_MOST_KEYS = 10_000  # of a config; published ones have a hundred


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says about a model, before its weights are read.

    Args:
        path: The folder or file.
        config: What its `config.json` says, or would say.
        family: Its family.
        arguments: Of our model.
        notes: What was not taken over and why.
        open_tensors: Opens its tensors.
    """

    path: Path
    config: Mapping[str, Any]
    family: Family
    arguments: Arguments
    notes: tuple[str, ...]
    open_tensors: Callable[[], Tensors]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads what a checkpoint says about its model.

    Args:
        path: A folder with `config.json` and safetensors, or a `.gguf` file.

    Raises:
        ConvertError: when it is neither, its family is not known, or something in it is not implemented.
    """
    path = Path(path)
    if path.suffix == ".gguf":
        return checkpoint_of_gguf(GgufFile(path))
    where = path / CONFIG_FILE
    # Asked for more than once, and read once: it keeps names and places, and no file open.
    return _checkpoint(path, _read_json(where), str(where), functools.cache(lambda: SafetensorsFiles(path)))


def checkpoint_of_gguf(file: GgufFile) -> Checkpoint:
    """The same of a GGUF file that was opened, which is not opened again.

    Raises:
        ConvertError: as `read_checkpoint`.
    """
    return _checkpoint(file.path, file.config(), str(file.path), lambda: file)


def _checkpoint(
    path: Path, mapping: Mapping[str, Any], where: str, open_tensors: Callable[[], Tensors]
) -> Checkpoint:
    if len(mapping) > _MOST_KEYS:
        raise ConvertError(
            f"{where} has {len(mapping)} keys; at most {_MOST_KEYS} are read, so download it again"
        )
    kind = mapping.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ConvertError(f"{where}: model_type={shown(kind)} is not known; known are {known}")
    config = ConfigReader(mapping, where)
    for key in ("quantization_config", "quantization"):
        if config.has(key):
            raise config.refuse(key, mapping[key], "save the checkpoint unquantized")
    family = FAMILIES[kind]
    names = frozenset() if family.heads is None else open_tensors().shapes.keys()
    arguments = family.completed(family.read_config(config, names), open_tensors)
    arguments, head = with_held_head(family, arguments, mapping.get("architectures"), open_tensors)
    left = config.unread()
    unknown = [
        f"{key[:_LONGEST_KEY]}={shown(value)} is not known and was left aside"
        for key, value in itertools.islice(left.items(), _MOST_NOTES)
    ]
    if len(left) > _MOST_NOTES:
        unknown.append(f"{len(left) - _MOST_NOTES} more keys are not known and were left aside")
    return Checkpoint(path, mapping, family, arguments, (*config.notes, *head, *unknown), open_tensors)


def load_model(checkpoint: Checkpoint, *, dtype: str = "float32") -> Any:
    """Builds the model and reads its weights, tensor by tensor.

    Args:
        checkpoint: From `read_checkpoint`.
        dtype: Of weights and arithmetic: float32, bfloat16 or float16.

    Raises:
        ConvertError: when a file is damaged, or tensors are missing, left over or misshaped; all of them
            are named, and no model is made.
    """
    if dtype not in DTYPES:
        raise ConvertError(f"dtype={dtype!r} is not known; use {', '.join(DTYPES)}")
    tensors = checkpoint.open_tensors()
    names = checked_names(checkpoint, tensors)
    rows = checkpoint.family.rows(checkpoint.arguments)
    failures: list[Exception] = []
    stored = [names[row.theirs] for row in rows if row.theirs in names]
    # In this scope Keras makes variables without values, and on leaving it asks their initializers for them,
    # one variable after the other: no weight is ever made only to be replaced.
    with ReadAhead(tensors, stored) as ahead, keras.StatelessScope():
        model = checkpoint.family.kind.model(
            dtype=keras.DTypePolicy(dtype), initializer_range=0.0, **checkpoint.arguments
        )
        model.build()
        variables = variables_by_path(model)
        _check_shapes(checkpoint, rows, names, tensors, variables)
        for row in rows:
            if row.theirs not in names:
                continue
            shapes = [tuple(variables[path].shape) for path in row.ours]
            held = _Held(row, ahead, names[row.theirs], shapes, failures)
            for index, path in enumerate(row.ours):
                variables[path]._initializer = functools.partial(held.value, index)
    if failures:
        raise failures[0]
    return model


class _Held:
    """What one tensor of the checkpoint holds; read when the first variable asks, forgotten after the last.

    Args:
        row: The row of the table.
        tensors: Gives the checkpoint's.
        name: The tensor's, in the files.
        shapes: Of the row's variables.
        failures: Receives what goes wrong: an initializer that raises would leave Keras with variables to
            initialize for ever.
    """

    def __init__(
        self,
        row: Row,
        tensors: ReadAhead,
        name: str,
        shapes: Sequence[tuple[int, ...]],
        failures: list[Exception],
    ):
        self._row, self._tensors, self._name, self._shapes = row, tensors, name, shapes
        self._failures = failures
        self._parts: dict[int, np.ndarray] = {}

    def value(self, index: int, shape: Sequence[int], dtype: str) -> tf.Tensor:
        """The value of one of its variables; an initializer of Keras, but for `index`."""
        try:
            if not self._failures:
                return self._read(index, dtype)
        except Exception as error:
            self._failures.append(error)
        return tf.zeros(shape, dtype)

    def _read(self, index: int, dtype: str) -> tf.Tensor:
        if not self._parts:
            parts = self._row.layout.split(self._tensors.take(self._name), self._shapes)
            self._parts = dict(enumerate(parts))
        part = self._parts.pop(index)
        turned = part.ndim == 2 and part.T.flags.c_contiguous and not part.flags.c_contiguous
        # TensorFlow turns a matrix faster than NumPy.
        value = tf.transpose(tf.convert_to_tensor(part.T)) if turned else tf.convert_to_tensor(part)
        return tf.cast(value, dtype)


def checked_names(checkpoint: Checkpoint, tensors: Tensors) -> dict[str, str]:
    """Where each tensor of the table stands in the files, if it does.

    Raises:
        ConvertError: when tensors are missing or left over; all of them are named. Or when the config asks for more
            blocks or larger matrices than the files hold, which is known before memory is taken for a model.
    """
    layers = sum(checkpoint.arguments.get(name, 0) for name in LAYERS)
    if layers > len(tensors.shapes):
        raise ConvertError(
            f"{checkpoint.path}: its config says {layers} blocks, and the files hold {len(tensors.shapes)} tensors"
        )
    family = checkpoint.family
    table, in_file = family.rows(checkpoint.arguments), _in_file(family, tensors.shapes)
    names = stored_names(family, table, tensors.shapes)
    missing, spared, copies = [], set(names.values()), dict[str, str]()
    for row in table:
        if row.written_only:
            spared.add(in_file(row.theirs))
        elif row.theirs in names:
            copies.update(dict.fromkeys(map(in_file, row.copies), names[row.theirs]))
        elif not row.optional:
            missing.append(in_file(row.theirs))
    computed = {in_file(name): function for name, function in family.computed.items()}
    left = [
        name
        for name in tensors.shapes.keys() - spared
        if not name.endswith(family.buffers or ("\0",))
        and not (name in copies and np.array_equal(tensors.read(name), tensors.read(copies[name])))
        and not (name in computed and _is_computed(tensors.read(name), computed[name](checkpoint.arguments)))
    ]
    if missing or left:
        words = [f"missing: {_some(missing)}"] if missing else []
        words += [f"not known: {_some(sorted(left))}"] if left else []
        raise ConvertError(
            f"{checkpoint.path}: the weights are not those of the {family.model_type} that its config"
            f" describes; {'; '.join(words)}"
        )
    _check_sizes(checkpoint, tensors)
    return names


def stored_names(family: Family, table: Sequence[Row], there: Collection[str]) -> dict[str, str]:
    """What the files that hold `there` call the tensors of a table that are read; without those they lack."""
    in_file, names = _in_file(family, there), {}
    for row in table:
        known = map(in_file, () if row.written_only else (row.theirs, *row.copies))
        found = next((name for name in known if name in there), None)
        if found is not None:
            names[row.theirs] = found
    return names


def _in_file(family: Family, there: Collection[str]) -> Callable[[str], str]:
    """What a tensor is called in files that may leave the family's prefix out."""
    bare = not any(name.startswith(family.prefix) for name in there)
    return lambda name: name.removeprefix(family.prefix) if bare else name


def _is_computed(held: np.ndarray, expected: np.ndarray) -> bool:
    """Whether a tensor is what we compute, to the last digit of its type."""
    if held.shape != expected.shape:
        return False
    difference = np.abs(held.astype(np.float32) - expected)
    return bool(np.max(difference) <= ml_dtypes.finfo(held.dtype).eps)


def _check_sizes(checkpoint: Checkpoint, tensors: Tensors) -> None:
    """Before memory is taken: the largest matrices that the config asks for are in the files at all."""
    held = sum(math.prod(shape) for shape in tensors.shapes.values())
    for what, size in checkpoint.family.kind.matrices(checkpoint.arguments):
        if size > held:
            raise ConvertError(
                f"{checkpoint.path}: its config says a width of {checkpoint.arguments['hidden_dim']} and {what}, more"
                " numbers than the files hold"
            )


def _check_shapes(
    checkpoint: Checkpoint,
    rows: Sequence[Row],
    names: Mapping[str, str],
    tensors: Tensors,
    variables: Mapping[str, Any],
) -> None:
    filled = {path for row in rows for path in row.ours}
    assert filled == variables.keys(), sorted(filled ^ variables.keys())
    wrong = []
    for row in rows:
        if row.theirs not in names:
            continue
        expected = row.layout.shape([tuple(variables[path].shape) for path in row.ours])
        found = tensors.shapes[names[row.theirs]]
        if found != expected:
            wrong.append(f"{names[row.theirs]} has {list(found)} and should have {list(expected)}")
    if wrong:
        raise ConvertError(f"{checkpoint.path}: shapes do not fit its config: {_some(wrong, '; ')}")


def _some(names: Sequence[str], comma: str = ", ") -> str:
    more = f"{comma}and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return comma.join(names[:_SHOWN]) + more


def _read_json(path: Path) -> dict[str, Any]:
    try:
        mapping = read_json(path)
    except FileNotFoundError:
        raise ConvertError(f"{path.parent} holds no {CONFIG_FILE}; give the folder of a checkpoint") from None
    except (OSError, ValueError) as error:
        raise ConvertError(f"{path} is not a JSON file ({error}); download it again") from None
    if not isinstance(mapping, dict):
        raise ConvertError(f"{path} must hold a mapping, not {type(mapping).__name__}")
    return mapping
