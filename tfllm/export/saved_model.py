"""Writing a model and its tokenizer as one SavedModel, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfllm.export.errors import ExportError
from tfllm.export.lint import lint_saved_model
from tfllm.export.signatures import Limits, read_defaults, serving_module
from tfllm.tokenizers import Tokenizer
from tfllm.version import __version__

METADATA_FILE = "assets.extra/tfllm.json"


def export_saved_model(
    model: Any,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    generation: Any,
    stop_ids: Sequence[int] | None = None,
    max_new_tokens: int = 256,
    version: int | None = None,
) -> Path:
    """Writes `<folder>/<version>/`, which TensorFlow Serving and any TensorFlow load without tfllm.

    It takes text and gives text, with the signatures that `serving_module` describes. It appears under its
    version at once and whole, so a server may watch the folder. Weights are float32 and are not copied when
    the model computes in float32 already.

    Args:
        model: A model like `Decoder`.
        tokenizer: Its tokenizer.
        folder: Parent of the version folders; made where it does not exist.
        generation: Has the attributes max_new_tokens, temperature, top_k, top_p, repetition_penalty and
            seed, the defaults of requests that give only a prompt; `config.generation` is one.
        stop_ids: Tokens that end a text; None is those that end, begin and pad documents.
        max_new_tokens: The largest a request may ask for; at most the context less one token.
        version: None takes the next after the largest there.

    Returns:
        The version's folder.

    Raises:
        ExportError: when the folder cannot be written, the version exists, or the result would not serve;
            nothing is left behind.
    """
    limits = Limits.of(model, max_new_tokens)
    defaults = read_defaults(generation, limits)
    if stop_ids is None:
        stop_ids = sorted({tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id})
    module = serving_module(in_float32(model), tokenizer, limits=limits, defaults=defaults, stop_ids=stop_ids)
    signatures = {"serving_default": module.serving_default, "generate": module.generate}
    metadata = {
        "context_length": limits.context_length,
        "max_new_tokens": limits.max_new_tokens,
        "defaults": defaults,
    }
    return save_version(module, signatures, folder, tokenizer=tokenizer, metadata=metadata, version=version)


def save_version(
    module: tf.Module,
    signatures: Mapping[str, Any],
    folder: str | Path,
    *,
    tokenizer: Tokenizer,
    metadata: Mapping[str, Any],
    version: int | None = None,
) -> Path:
    """Writes a module as a version, whole or not at all; see `export_saved_model`.

    Args:
        module: What is saved.
        signatures: Its functions that serve.
        folder: Parent of the version folders.
        tokenizer: Told in the metadata.
        metadata: What `assets.extra/tfllm.json` says besides.
        version: None takes the next after the largest there.

    Returns:
        The version's folder.

    Raises:
        ExportError: as `export_saved_model`.
    """
    with part_folder(Path(folder), version) as part:
        # Without its debug information the graph names no file of this machine.
        options = tf.saved_model.SaveOptions(experimental_debug_stripper=True)
        tf.saved_model.save(module, str(part), signatures=signatures, options=options)
        _write_metadata(part / METADATA_FILE, tokenizer, metadata)
        problems = lint_saved_model(part)
        if problems:
            raise ExportError("the model would not serve:\n" + "\n".join(f"  {line}" for line in problems))
        return _publish(part, Path(folder), version)


def latest_version(folder: str | Path) -> int:
    """The largest version in a folder, 0 where there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        return 0
    return max((int(child.name) for child in folder.iterdir() if _is_version(child.name)), default=0)


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit()


@contextlib.contextmanager
def part_folder(folder: Path, version: int | None) -> Iterator[Path]:
    """Gives a folder beside the versions, under a name that servers pass over, and removes what is left."""
    part = folder / f".part-{os.getpid()}-{time.time_ns()}"
    made = _missing_parents(folder)
    try:
        if version is not None:
            _check_version(folder, version)
        part.mkdir(parents=True)
        yield part
        made = []
    except (OSError, tf.errors.OpError) as error:
        raise ExportError(
            f"cannot write {folder}: {_reason(error)}; free space or choose a folder"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()


def _missing_parents(folder: Path) -> list[Path]:
    """The folders that writing would make, innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _check_version(folder: Path, version: int) -> None:
    if version < 1:
        raise ExportError(f"version={version} must be at least 1")
    if (folder / str(version)).exists():
        free = latest_version(folder) + 1
        raise ExportError(f"{folder / str(version)} exists; leave version out, or take {free} or above")


def _publish(part: Path, folder: Path, version: int | None) -> Path:
    while True:
        target = folder / str(version or latest_version(folder) + 1)
        try:
            os.replace(part, target)  # one step; refuses where another export put files there meanwhile
            return target
        except OSError:
            if version is not None or not target.exists():
                raise


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # TensorFlow's message: "{{node}} file; reason [Op:name]".
    return re.sub(r"\s*\[Op:.*", "", str(error).splitlines()[0]).rpartition("; ")[2]


def in_float32(model: Any) -> Any:
    """The model itself, or a twin where it computes or stores in another type."""
    policy = model.dtype_policy
    if policy.compute_dtype == policy.variable_dtype == "float32":
        return model
    twin = type(model).from_config({**model.get_config(), "dtype": "float32"})
    twin.build()
    for variable, source in zip(twin.variables, model.variables, strict=True):
        variable.assign(keras.ops.cast(source.value, "float32"))
    return twin


def _write_metadata(path: Path, tokenizer: Tokenizer, more: Mapping[str, Any]) -> None:
    metadata = {
        "tfllm_version": __version__,
        "tokenizer": {"type": tokenizer.type, "vocab_size": tokenizer.vocab_size},
        **more,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
