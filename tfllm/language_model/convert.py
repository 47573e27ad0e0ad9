"""From one format of models to another."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tfllm.convert.checkpoint import DTYPES, read_checkpoint
from tfllm.convert.errors import ConvertError
from tfllm.convert.hub import local_path
from tfllm.experiment.model_source import is_run
from tfllm.language_model.load import load

_STORED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def convert(source: str | Path, folder: str | Path, *, to: str, dtype: str | None = None) -> None:
    """Writes a model in another format: weights, config, tokenizer, generation settings and chat template.

    Args:
        source: Whatever `tfllm.load` takes.
        folder: The folder to write; must not exist yet, or be empty.
        to: huggingface or tfllm.
        dtype: Type of the weights written: float32, bfloat16 or float16; None is the one they are stored in, float32
            for quantized ones.

    Raises:
        ConvertError: when the source is not understood, the folder holds something, or the format cannot say what the
            model is.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConvertError(f"{folder} is not empty; give a folder that does not exist yet")
    if dtype is not None and dtype not in DTYPES:
        raise ConvertError(f"dtype={dtype!r} is not known; use {', '.join(DTYPES)}")
    load(source, dtype=dtype or _stored_dtype(local_path(source)), jit_compile=False).save(folder, to=to)


def _stored_dtype(path: Path) -> str:
    """The type of most weights of a checkpoint."""
    if is_run(path):
        return "float32"
    sizes: Counter[str] = Counter()
    tensors = read_checkpoint(path).open_tensors()
    for name, kind in tensors.types.items():
        sizes[_STORED.get(kind, "float32")] += 1 if len(tensors.shapes[name]) > 1 else 0
    return sizes.most_common(1)[0][0] if sizes else "float32"
