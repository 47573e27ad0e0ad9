"""A model that was trained or saved here."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from tfllm.config import ConfigError, ExperimentConfig, Problem
from tfllm.config.build import to_mapping
from tfllm.convert.assignment import HEAD_LAYERS, POOLER, RESIZED, copy_weights
from tfllm.convert.sentence_modules import SentenceModules, read_sentence_modules
from tfllm.convert.summary import Section
from tfllm.convert.weight_table import variables_by_path
from tfllm.experiment.base import check_base, has_base, place_of, round_base
from tfllm.experiment.model import make_model, merged
from tfllm.experiment.run_folder import RunFolder
from tfllm.peft.adapters import NAME as ADAPTER
from tfllm.peft.lora import NAME as LORA
from tfllm.tokenizers import NoTokenizerError, Tokenizer, read_tokenizer
from tfllm.training.checkpoint_folder import checkpoint_paths
from tfllm.training.metrics_log import read_metrics
from tfllm.training.model_checkpoint import checkpoint_in, model_variables, restore_model

# A run's positions are as many as it learned; its tokens may be more or less in another run.
_MORE_TOKENS = {path: fit for path, fit in RESIZED.items() if not path.startswith("position_")}


class RunOrigin:
    """A run, or what `LanguageModel.save` wrote: its best checkpoint where it has chosen one, else the newest.

    Args:
        source: What it was called by.
        run_folder: The run.
        open_base: Opens the source that a run was tuned from, whose weights its checkpoints leave out.
    """

    stored_dtype = "float32"

    def __init__(self, source: str, run_folder: RunFolder, open_base: Callable[[str], Any]):
        self.source, self._open_base = source, open_base
        self.run_folder: RunFolder | None = run_folder
        self._run = run_folder

    @property
    def path(self) -> Path:
        """The folder."""
        return self._run.path

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer; NoTokenizerError where it has none."""
        return read_tokenizer(self._run.tokenizer)

    def config(self) -> ExperimentConfig:
        """Its config; ConfigError where that is damaged."""
        return self._config

    def model_section(self) -> dict[str, Any]:
        """The `model` section of a config that starts from it."""
        section = to_mapping(self._config.model)  # what stood beside its matrices is added to them
        return {**section, "source": self.source, "max_seq_len": self._config.context_length}

    def learned_positions(self) -> int | None:
        """The rows of its table of positions, where it has one."""
        learned = getattr(self._config.model, "positions", None) == "learned"
        return self._config.context_length if learned else None

    def stop_tokens(self) -> list[str]:
        """Those of its config."""
        return list(self._config.generation.stop_tokens)

    def sentence_modules(self) -> SentenceModules | None:
        """What was saved with it, or else what it was trained for."""
        saved = read_sentence_modules(self._run.sentence)
        pooling = getattr(self._config.task, "pooling", None)
        if saved is not None or pooling is None:
            return saved
        name = {"mean": "mean", "first": "cls", "last": "lasttoken"}[pooling]
        return SentenceModules((name,), (None,), max_seq_length=self._config.data.seq_len)

    def notes(self) -> list[str]:
        """Nothing: all of it is taken over."""
        return []

    def check(self) -> None:
        """Finds nothing: a checkpoint is looked at when it is read."""

    def load(self, dtype: str, *, notify: Callable[[str], None]) -> tuple[Any, int]:
        """The model, and the updates of the checkpoint; `notify` receives a line for each that is passed over."""
        try:
            vocab_size = self.tokenizer.vocab_size
        except NoTokenizerError:
            vocab_size = self._config.model.vocab_size or 0
        model = make_model(self._config, vocab_size, dtype=dtype)
        frozen = self._fill_base(model, notify)
        restored = restore_model(self._run.checkpoints, model, best=True, without=frozen, notify=notify)
        return model, restored.step

    def _fill_base(self, model: Any, notify: Callable[[str], None]) -> set[str]:
        """Reads what the checkpoint leaves out, and returns its names: none, where it is whole."""
        if not has_base(self._config):
            return set()
        _, manifest = checkpoint_in(self._run.checkpoints, best=True, notify=lambda line: None)
        recorded = manifest["about"].get("base")
        if not isinstance(recorded, dict):  # as `LanguageModel.save` writes it
            return set()
        source = place_of(recorded, str(self._config.model.source))
        new_head = bool(getattr(self._config.model, "new_head", False))
        try:
            self._open_base(source).fill(model, new_head=new_head, notify=notify)
        except ConfigError as error:
            raise ConfigError(
                [
                    Problem(
                        "model.source",
                        source,
                        f"is the base of {self.source}, whose weights its checkpoints leave out, and cannot be read",
                        "put it there, or keep runs whole with lm.save",
                    ),
                    *error.problems,
                ],
                str(self._run.config),
            ) from None
        check_base(recorded.get("sample"), model, what=self.source, source=source)
        round_base(self._config, model)
        return model_variables(model).keys() - manifest["variables"].keys()

    def fill(self, model: Any, *, new_head: bool, notify: Callable[[str], None]) -> None:
        """Reads the weights into a model; more tokens than the run has begin as the mean of the others."""
        learned = getattr(self._config.model, POOLER, "none") != "none"
        peft = self._config.peft
        added = (LORA, ADAPTER) if peft is None or peft.sums else (LORA,)  # which begin anew
        leave = (*added, *((*HEAD_LAYERS, *(() if learned else (POOLER,))) if new_head else ()))
        if peft is None:
            restore_model(
                self._run.checkpoints, model, best=True, leave=leave, resize=_MORE_TOKENS, notify=notify
            )
            return
        whole, _ = self.load("float32", notify=notify)  # what it came to
        if peft.sums:
            whole = merged(whole, self._config)
        self._check_layers(whole, model)
        copy_weights(whole, model, leave=leave, resize=_MORE_TOKENS)

    def _check_layers(self, whole: Any, model: Any) -> None:
        """What the run put into its blocks is there, or it would be lost without a word."""
        lost = {path for path in variables_by_path(whole) if "/block_" in f"/{path}"} - variables_by_path(
            model
        ).keys()
        if lost:
            assert self._config.peft is not None
            problem = Problem(
                "peft",
                Problem.ABSENT,
                f"lacks the layers that {self.source} was tuned with, such as {min(lost)}",
                f"write peft: {{type: {self._config.peft.type}, …}} with the keys that it has there",
            )
            raise ConfigError([problem], "the config")

    def summary(self) -> list[Section]:
        """Its checkpoints, and what was logged last of each split."""
        names = ", ".join(path.name for path in checkpoint_paths(self._run.checkpoints))
        last = {entry["split"]: entry for entry in read_metrics(self._run.metrics)}
        logged = [(split, _logged(entry)) for split, entry in last.items()]
        return [("RUN", [("checkpoints", names or "none"), *logged])]

    @cached_property
    def _config(self) -> ExperimentConfig:
        return self._run.load_config()


def _logged(entry: dict[str, Any]) -> str:
    numbers = (f"{name} {value}" for name, value in entry.items() if name not in ("step", "split"))
    return f"step {entry['step']}: " + ", ".join(numbers)
