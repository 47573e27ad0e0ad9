"""Whatever a path or handle names → a language model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tfllm.config import ConfigError, Problem
from tfllm.convert.checkpoint import load_model
from tfllm.convert.hub import local_path
from tfllm.experiment.model import make_model
from tfllm.experiment.model_source import (
    Pretrained,
    config_of_preset,
    is_run,
    keras_nlp_preset,
    tokenizer_at,
)
from tfllm.experiment.run_folder import RunFolder
from tfllm.language_model.language_model import LanguageModel
from tfllm.language_model.sentence_modules import read_sentence_modules, transformer_folder
from tfllm.models.keras_nlp_model import KerasNlpModel
from tfllm.tokenizers import NoTokenizerError, Tokenizer, read_tokenizer
from tfllm.training.checkpoint import restore_model


def load(
    source: str | Path,
    *,
    dtype: str = "float32",
    jit_compile: bool = True,
    notify: Callable[[str], None] = print,
) -> LanguageModel:
    """Loads a language model: one that was trained or saved here, or a checkpoint of another library.

    Args:
        source: The folder of a run, or one written by `LanguageModel.save`, of which the newest whole checkpoint is
            taken; a folder of transformers, with safetensors; a `.gguf` file; `hf://org/name`; or
            `keras_nlp://preset`, a preset of KerasHub by name or folder.
        dtype: Of weights and arithmetic: float32, bfloat16 or float16.
        jit_compile: As in `LanguageModel`.
        notify: Receives a line when a damaged checkpoint is passed over, and for each key of another library's
            config that was not understood.

    Raises:
        ConvertError: when a checkpoint of another library is damaged or not understood.
        ConfigError: when the folder is neither.
        CheckpointError: when a run holds no whole checkpoint, or one of another model.
        TokenizerError: when the tokenizer is not understood.

    Example:
        >>> lm = tfllm.load("SmolLM2-135M-Instruct.Q4_1.gguf")
        >>> lm.generate("What is the capital of France?", chat=True)
    """
    preset = keras_nlp_preset(source)
    if preset is not None:
        return _load_preset(str(source), preset, dtype, jit_compile)
    path = local_path(source)
    if is_run(path):
        return _load_run(path, dtype, jit_compile, notify)
    folder = path
    if path.suffix != ".gguf" and path != (path := transformer_folder(path)):
        source = path
    if path.suffix != ".gguf" and not (path / "config.json").exists():
        rule = "holds neither config.yaml, as runs do, nor config.json, as checkpoints do"
        mend = "give the folder of a run, e.g. runs/quickstart, or a checkpoint"
        raise ConfigError([Problem(str(path), Problem.ABSENT, rule, mend)], "the model")
    pretrained = Pretrained(source)
    tokenizer = _tokenizer(lambda: pretrained.tokenizer, notify)
    config, modules = pretrained.config(), read_sentence_modules(folder)
    for note in pretrained.notes():
        notify(note)
    model = load_model(pretrained.checkpoint, dtype=dtype)
    return LanguageModel(model, tokenizer, config, jit_compile=jit_compile, sentence_modules=modules)


def _tokenizer(read: Callable[[], Tokenizer], notify: Callable[[str], None]) -> Tokenizer | None:
    """A tokenizer, or None and a line where there is none: the model can be used without."""
    try:
        return read()
    except NoTokenizerError as error:
        notify(f"{error}; until then it reads and writes no text")
        return None


def _load_preset(source: str, preset: str, dtype: str, jit_compile: bool) -> LanguageModel:
    tokenizer = tokenizer_at(source)
    model = KerasNlpModel(preset=preset, dtype=dtype)
    config = config_of_preset(source, model.max_seq_len)
    return LanguageModel(model, tokenizer, config, jit_compile=jit_compile)


def _load_run(path: Path, dtype: str, jit_compile: bool, notify: Callable[[str], None]) -> LanguageModel:
    folder = RunFolder(path)
    config = folder.load_config()
    modules = read_sentence_modules(folder.sentence)
    tokenizer = _tokenizer(lambda: read_tokenizer(folder.tokenizer), notify)
    size = config.model.vocab_size or 0 if tokenizer is None else tokenizer.vocab_size
    model = make_model(config, size, dtype=dtype)
    restored = restore_model(folder.checkpoints, model, notify=notify)
    return LanguageModel(
        model, tokenizer, config, step=restored.step, jit_compile=jit_compile, sentence_modules=modules
    )
