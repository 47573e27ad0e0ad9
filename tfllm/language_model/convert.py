"""From one format of models to another."""

from __future__ import annotations

from pathlib import Path

from tfllm.convert.errors import ConvertError
from tfllm.experiment.origins.origin import origin_of
from tfllm.language_model.language_model import check_format
from tfllm.language_model.load import load_origin


def convert(source: str | Path, folder: str | Path, *, to: str, dtype: str | None = None) -> None:
    """Writes a model in another format: weights, config, tokenizer, generation settings and chat template.

    Args:
        source: Whatever `tfllm.load` takes.
        folder: The folder to write; must not exist yet, or be empty.
        to: huggingface, peft or tfllm.
        dtype: Type of the weights written: float32, bfloat16 or float16; None is the one they are stored in, float32
            for quantized ones.

    Raises:
        ConvertError: when the source is not understood, the folder holds something, or the format cannot say what the
            model is.
        ConfigError, ModelError, TokenizerError: as `tfllm.load`.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConvertError(f"{folder} is not empty; give a folder that does not exist yet")
    origin = origin_of(source)
    check_format(to, origin.config())
    load_origin(origin, dtype=dtype or origin.stored_dtype, jit_compile=False).save(folder, to=to)
