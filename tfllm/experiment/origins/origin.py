"""Where a model comes from, as one noun; and what tells its kinds apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from tfllm.config import ConfigError, ExperimentConfig, Problem
from tfllm.convert.adapter import CONFIG_FILE as ADAPTER_FILE
from tfllm.convert.hub import local_path
from tfllm.convert.sentence_modules import SentenceModules
from tfllm.convert.summary import Section
from tfllm.experiment.origins.adapter import AdapterOrigin, named_base
from tfllm.experiment.origins.checkpoint import CheckpointOrigin
from tfllm.experiment.origins.preset import PRESET, PresetOrigin
from tfllm.experiment.origins.run import RunOrigin
from tfllm.experiment.run_folder import RunFolder
from tfllm.tokenizers import Tokenizer


class Origin(Protocol):
    """A model that is somewhere, before it is loaded. What is asked for is opened then, and once.

    Each method raises what its kind raises: ConfigError, ConvertError, ModelError or CheckpointError, and
    TokenizerError where a tokenizer is not understood.
    """

    @property
    def source(self) -> str:
        """What it was called by."""

    @property
    def path(self) -> Path | None:
        """Where it lies on this machine; None where its own library keeps it."""

    @property
    def run_folder(self) -> RunFolder | None:
        """The run that it is; None where it is none."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer; NoTokenizerError where it has none."""

    @property
    def stored_dtype(self) -> str:
        """The type of most of its weights: float32, bfloat16 or float16."""

    def config(self) -> ExperimentConfig:
        """Its config, or what a run's config would say of it, without text to train on."""

    def model_section(self) -> dict[str, Any]:
        """The `model` section of a config that starts from it; `source` is None where the model brings its weights."""

    def learned_positions(self) -> int | None:
        """The longest context that its weights allow; None where they allow any."""

    def stop_tokens(self) -> list[str]:
        """Names of the tokens that end a text, beside the tokenizer's own."""

    def sentence_modules(self) -> SentenceModules | None:
        """How texts become vectors, where it says so."""

    def notes(self) -> list[str]:
        """What was not taken over from its files, and why."""

    def check(self) -> None:
        """Raises what reading its weights would raise and is known without reading them."""

    def load(self, dtype: str, *, notify: Callable[[str], None]) -> tuple[Any, int]:
        """The model, its weights and arithmetic of that type; and the updates that it was trained for here."""

    def fill(self, model: Any, *, new_head: bool, notify: Callable[[str], None]) -> None:
        """Reads the weights into a model that is there; with `new_head` it keeps its own output layer."""

    def summary(self) -> list[Section]:
        """What there is to say of it beside its config and its tokenizer: titles, each with names and values."""


def origin_of(source: str | Path) -> Origin:
    """Tells what a path or handle names: the one place that does.

    Args:
        source: The folder of a run, or one written by `LanguageModel.save`; a folder of transformers; an adapter of
            PEFT, which names its base; a `.gguf` file; `hf://org/name`, which is looked up here; or
            `keras_nlp://preset`.

    Raises:
        ConfigError: when there is no such path.
        ConvertError: when it is no handle, or cannot be reached.
    """
    name = str(source)
    if name.startswith(PRESET):
        return PresetOrigin(name)
    path = local_path(source)
    if RunFolder(path).exists:
        return RunOrigin(name, RunFolder(path), origin_of)
    if (path / ADAPTER_FILE).is_file():
        return AdapterOrigin(name, path, lambda: origin_of(named_base(path)))
    if path.suffix != ".gguf" and not path.exists():
        mend = "give the folder of a run, e.g. runs/quickstart, or a checkpoint"
        raise ConfigError([Problem(str(path), Problem.ABSENT, "does not exist", mend)], "the model")
    return CheckpointOrigin(name, path)


def adapter_beside(base: str | Path, adapter: str | Path) -> AdapterOrigin:
    """An adapter of PEFT, and the base that it stands beside, whatever the adapter says of its own.

    Raises:
        ConfigError: when one of them is not there.
        ConvertError: as `origin_of`.
    """
    path = local_path(adapter)
    if not (path / ADAPTER_FILE).is_file():
        mend = 'give the folder of an adapter, as PEFT or lm.save(..., to="peft") writes it'
        raise ConfigError(
            [Problem(str(path), Problem.ABSENT, f"holds no {ADAPTER_FILE}", mend)], "the adapter"
        )
    return AdapterOrigin(str(adapter), path, lambda: origin_of(base))
