"""Variables as TensorFlow's tensor bundles: copied on the host, written in groups, read one at a time."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Written at once by one thread: large enough for a disk's full speed, small beside the model.
_GROUP_BYTES = 256 << 20
_WRITERS = 2
PATTERN = frozenset("*?[]\\")  # what TensorFlow takes for a pattern in a path that it reads from


class HostCopy:
    """A copy of variables in host memory, taken again and again into the same buffers.

    Fresh memory costs a page fault every 4 KiB, several times the copy itself; so the buffers stay, and
    take as many bytes as the variables. A replicated variable is copied from this process's first replica.

    Args:
        variables: Keras or TensorFlow variables by name.
    """

    def __init__(self, variables: Mapping[str, Any]):
        self._variables = {name: _first_replica(v) for name, v in variables.items()}
        self._buffers: dict[str, np.ndarray] = {}

    def prepare(self) -> None:
        """Takes the memory, so that the first copy is as fast as the others."""
        for name, variable in self._variables.items():
            shape, dtype = variable.shape.as_list(), _plain_dtype(variable.dtype)
            self._buffers[name] = np.empty(shape, dtype)
            self._buffers[name].fill(0)  # memory comes at the first touch

    def take(self) -> None:
        """Copies every variable as it is now."""
        if not self._buffers:
            self.prepare()
        for name, variable in self._variables.items():
            np.copyto(self._buffers[name], _view(variable))

    def tensor(self, name: str) -> tf.Tensor:
        """The copied value, in the variable's type."""
        value, dtype = tf.constant(self._buffers[name]), self._variables[name].dtype
        return value if value.dtype == dtype else tf.bitcast(value, dtype)

    def write(self, prefix: Path) -> None:
        """Writes `<prefix>.index` and `<prefix>.data-*`, which `tf.train.load_checkpoint` reads.

        Raises:
            tf.errors.OpError: when the disk refuses.
        """
        groups = self._groups()
        # As bytes: a path need not be UTF-8.
        parts = [os.fsencode(f"{prefix}.group_{index}") for index in range(len(groups))]
        with ThreadPoolExecutor(_WRITERS) as pool:
            list(pool.map(self._write_group, parts, groups))
        with tf.device("CPU:0"):
            tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=os.fsencode(prefix))

    def _groups(self) -> list[list[str]]:
        groups: list[list[str]] = [[]]
        filled = 0
        for name, buffer in self._buffers.items():
            if groups[-1] and filled + buffer.nbytes > _GROUP_BYTES:
                groups.append([])
                filled = 0
            groups[-1].append(name)
            filled += buffer.nbytes
        return groups

    def _write_group(self, prefix: bytes, names: Sequence[str]) -> None:
        with tf.device("CPU:0"):
            tensors = [self.tensor(name) for name in names]
            whole = [""] * len(names)
            tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=whole, tensors=tensors)


def read_tensor(prefix: Path, name: str, dtype: str) -> tf.Tensor:
    """Reads one tensor of a bundle.

    Args:
        prefix: As given to `HostCopy.write`.
        name: Of the variable.
        dtype: That it was written in.
    """
    with tf.device("CPU:0"), _without_pattern(prefix) as plain:
        return tf.raw_ops.RestoreV2(
            prefix=os.fsencode(plain), tensor_names=[name], shape_and_slices=[""], dtypes=[tf.as_dtype(dtype)]
        )[0]


@contextlib.contextmanager
def _without_pattern(prefix: Path) -> Iterator[Path]:
    """Gives a path of a bundle that TensorFlow reads: it writes to any, but takes what it reads for a pattern
    (RestoreV2 looks for the index with `GetMatchingPaths`). A link under a plain name leads to the others."""
    if not PATTERN.intersection(str(prefix)):
        yield prefix
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "bundle"
        link.symlink_to(prefix.parent.absolute(), target_is_directory=True)
        yield link / prefix.name


def backing_variable(variable: Any) -> tf.Variable:
    """TensorFlow's variable behind a Keras variable."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def _first_replica(variable: Any) -> tf.Variable:
    variable = backing_variable(variable)
    return variable.values[0] if isinstance(variable, tf.distribute.DistributedValues) else variable


def _plain_dtype(dtype: tf.DType) -> np.dtype:
    # NumPy's buffers know no bfloat16: its bits travel as integers.
    return np.dtype(np.uint16 if dtype == tf.bfloat16 else dtype.as_numpy_dtype)


def _view(variable: tf.Variable) -> np.ndarray:
    with tf.device("CPU:0"):
        value = tf.identity(variable)
        if value.dtype == tf.bfloat16:
            value = tf.bitcast(value, tf.uint16)
    # Other types that NumPy does not know itself, float8, are copied.
    builtin = _plain_dtype(variable.dtype).isbuiltin == 1
    return np.asarray(memoryview(value)) if builtin else value.numpy()
