"""A run on disk: where its parts lie, and whether a config may go on in it."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfllm.config import (
    ConfigError,
    ExperimentConfig,
    Problem,
    config_from_mapping,
    load_config,
    save_config,
)
from tfllm.config.build import to_mapping

# What may change between the two halves of a run: how long it is, what is written when, and how the same
# arithmetic is spread over devices and memory. Which text the rows are made from may change too: the rows
# themselves are compared, once they are there, whatever the text is called now.
_MAY_CHANGE = (
    "name",
    "generation",
    "evaluation",
    "export",
    "plugins",
    "data.train",
    "data.validation",
    "data.validation_fraction",
    "data.test",
    "data.test_fraction",
    "data.split_by",
    "data.cache_dir",
    "data.num_workers",
    "distribution",
    "training.steps",
    "training.epochs",
    "training.microbatch_size",
    "training.jit_compile",
    "training.remat",
    "training.loss_chunk_tokens",
    "training.attention_block_size",
    "training.steps_per_call",
    "training.log_every",
    "training.evaluate_every",
    "training.sample_every",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.best_metric",
    "training.best_mode",
    "training.early_stopping",
    "training.on_save_error",
    "training.preemption_notice",
    "training.profile",
    "training.histogram_every",
)
# What was read from there is in the run by now; so it may be called otherwise, or be gone.
_PLACES = ("model.source", "tokenizer.source", "tokenizer.path", "peft.source")

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The paths of a run.

    Args:
        path: The folder, e.g. `runs/quickstart`.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer."""
        return self.path / "tokenizer"

    @property
    def sentence(self) -> Path:
        """Folder of what makes vectors of texts, where the model is a sentence encoder."""
        return self.path / "sentence"

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def test(self) -> Path:
        """What the run reached on the text to test on: one JSON object."""
        return self.path / "test.json"

    @property
    def reference(self) -> Path:
        """What the model said at the start of the answers that are compared."""
        return self.path / "reference.npz"

    @property
    def pictures(self) -> Path:
        """Folder of pictures: of its texts' lengths, and of the classes that its model takes for others."""
        return self.path / "pictures"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard events."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def failures(self) -> Path:
        """Folder of the step that failed last, for a replay."""
        return self.path / "failures"

    @property
    def samples(self) -> Path:
        """Folder of samples."""
        return self.path / "samples"

    @property
    def export(self) -> Path:
        """Folder of exported versions."""
        return self.path / "export"

    @property
    def exists(self) -> bool:
        """Whether this is the folder of a run."""
        return self.config.exists() or bool(self.about())

    @property
    def has_weights(self) -> bool:
        """Whether it holds a checkpoint, whole or not, or a step that failed."""
        return any(self.checkpoints.glob("*step_*")) or self.failures.exists()

    def open_for(self, config: ExperimentConfig) -> None:
        """Makes the folder, or checks that what is there is a run of the same experiment.

        Where there are weights, the config on disk stays until `keep`: the rows have yet to be compared.

        Raises:
            ConfigError: when the run there differs in what its weights depend on.
        """
        self.check(config)
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.has_weights:
            self.keep(config)

    def check(self, config: ExperimentConfig) -> None:
        """Checks that what is there, if anything, is a run of the same experiment.

        A tokenizer that was made of other text, and that no weights depend on yet, is removed.

        Raises:
            ConfigError: when the run there differs in what its weights depend on.
        """
        if not self.exists:
            return
        there, here = to_mapping(self.load_config()), to_mapping(config)
        differences = list(_differences(there, here))
        if differences:
            raise ConfigError(differences, f"{self.path}, which holds another run")
        if not self.has_weights and there["data"] != here["data"] and self.tokenizer.is_dir():
            shutil.rmtree(self.tokenizer)

    def keep(self, config: ExperimentConfig) -> None:
        """Writes the config that the run goes on with."""
        save_config(config, self.config)

    def load_config(self) -> ExperimentConfig:
        """Reads the run's config; where there is none, or an empty file, the one in the newest checkpoint.

        Raises:
            ConfigError: when this is not a run folder, or its config is damaged.
        """
        empty = self.config.exists() and not self.config.read_bytes().strip(b"\0 \r\n\t")
        kept = self.about().get("config")
        if self.config.exists() and not empty:
            try:
                return load_config(self.config, for_training=False)
            except ConfigError as error:
                if kept is None or any(problem.path.startswith("plugins") for problem in error.problems):
                    raise
                rule = "can be done without: the newest checkpoint holds the config too"
                problem = Problem(
                    str(self.config), Problem.ABSENT, rule, "remove the file to have that one taken"
                )
                raise ConfigError([*error.problems, problem], error.source) from None
        what = "is empty" if empty else "holds no config.yaml"
        if kept is None:
            place = str(self.config if empty else self.path)
            mend = "give the folder of a run, e.g. runs/quickstart"
            raise ConfigError([Problem(place, Problem.ABSENT, what, mend)], "the run folder")
        logger.warning(
            "%s %s; taking the config that its newest checkpoint holds",
            self.config if empty else self.path,
            what,
        )
        return config_from_mapping(kept, source=f"the newest checkpoint of {self.path}", for_training=False)

    def about(self, step: int | None = None) -> dict[str, Any]:
        """What the checkpoint of a step, or the newest that can be read, says of the run: config, rows, folder."""
        pattern = "step_*" if step is None else f"step_{step:08d}"
        for path in sorted(self.checkpoints.glob(f"{pattern}/manifest.json"), reverse=True):
            try:
                about = json.loads(path.read_bytes())["about"]
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                continue
            if isinstance(about, dict):
                return about
        return {}


def _differences(there: Any, here: Any, path: str = "") -> Iterator[Problem]:
    if path in _MAY_CHANGE or there == here:
        return
    if isinstance(there, dict) and isinstance(here, dict):
        for key in here.keys() | there.keys():
            yield from _differences(there.get(key), here.get(key), f"{path}.{key}" if path else key)
        return
    if path in _PLACES and _same_place(there, here):
        return
    mend = "choose another --run-dir or name, or write what the run has"
    yield Problem(path, here, f"is {there!r} in the run", mend)


def _same_place(there: Any, here: Any) -> bool:
    """Whether two spellings lead to one file or folder, or the first leads nowhere any more."""
    if not isinstance(there, str) or not isinstance(here, str) or "://" in there + here:
        return False
    first, second = os.path.expanduser(there), os.path.expanduser(here)
    return not os.path.exists(first) or os.path.realpath(first) == os.path.realpath(second)
