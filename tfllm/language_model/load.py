"""Whatever a path or handle names → a language model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tfllm.convert.checkpoint import DTYPES
from tfllm.convert.errors import ConvertError
from tfllm.experiment.origins.origin import Origin, adapter_beside, origin_of
from tfllm.language_model.language_model import LanguageModel
from tfllm.tokenizers import NoTokenizerError, Tokenizer


def load(
    source: str | Path,
    *,
    adapter: str | Path | None = None,
    dtype: str = "float32",
    jit_compile: bool = True,
    notify: Callable[[str], None] = print,
) -> LanguageModel:
    """Loads a language model: one that was trained or saved here, or a checkpoint of another library.

    Args:
        source: The folder of a run, of which the best checkpoint is taken where `training.best_metric` has chosen one,
            else the newest whole one; or one written by `LanguageModel.save`; a folder of transformers, with
            safetensors; a `.gguf` file; `hf://org/name`; or `keras_nlp://preset`, a preset of KerasHub by name or
            folder. The folder of an adapter that names its base is loaded with it.
        adapter: A LoRA adapter that stands beside it: a folder of Hugging Face's PEFT, or one written by
            `LanguageModel.save(to="peft")`; or `hf://org/name`.
        dtype: Of weights and arithmetic: float32, bfloat16 or float16.
        jit_compile: As in `LanguageModel`.
        notify: Receives a line when a damaged checkpoint is passed over, and for each key of another library's
            config that was not understood.

    Raises:
        ConvertError: when a checkpoint of another library is damaged or not understood.
        ConfigError: when the folder is neither, or is not there.
        CheckpointError: when a run holds no whole checkpoint, or one of another model.
        ModelError: when there is no such preset, or it is no language model.
        TokenizerError: when the tokenizer is not understood.

    Example:
        >>> lm = tfllm.load("SmolLM2-135M-Instruct.Q4_1.gguf")
        >>> lm.generate("What is the capital of France?", chat=True)
    """
    origin = origin_of(source) if adapter is None else adapter_beside(source, adapter)
    return load_origin(origin, dtype=dtype, jit_compile=jit_compile, notify=notify)


def load_origin(
    origin: Origin,
    *,
    dtype: str = "float32",
    jit_compile: bool = True,
    notify: Callable[[str], None] = print,
) -> LanguageModel:
    """Loads what an origin has; arguments and errors as those of `load`."""
    if dtype not in DTYPES:
        raise ConvertError(f"dtype={dtype!r} is not known; use {', '.join(DTYPES)}")
    config = origin.config()
    tokenizer = _tokenizer(origin, notify)
    modules = origin.sentence_modules()
    for note in origin.notes():
        notify(note)
    model, step = origin.load(dtype, notify=notify)
    return LanguageModel(
        model, tokenizer, config, step=step, jit_compile=jit_compile, sentence_modules=modules
    )


def _tokenizer(origin: Origin, notify: Callable[[str], None]) -> Tokenizer | None:
    """A tokenizer, or None and a line where there is none: the model can be used without."""
    try:
        return origin.tokenizer
    except NoTokenizerError as error:
        notify(f"{error}; until then it reads and writes no text")
        return None
