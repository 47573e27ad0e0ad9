"""A run on disk: where its parts lie, and whether a config may go on in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfllm.config import ConfigError, ExperimentConfig, Problem, load_config, save_config
from tfllm.config.build import to_mapping

# What may change between the two halves of a run: how long it is, what is written when, and how the same
# arithmetic is spread over devices and memory.
_MAY_CHANGE = (
    "name",
    "generation",
    "export",
    "data.cache_dir",
    "data.num_workers",
    "distribution",
    "training.steps",
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
    "training.on_save_error",
    "training.preemption_notice",
    "training.profile",
    "training.histogram_every",
)


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
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

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

    def open_for(self, config: ExperimentConfig) -> None:
        """Makes the folder, or checks that what is there is a run of the same experiment.

        Raises:
            ConfigError: when the run there differs in what its weights depend on.
        """
        self.check(config)
        self.path.mkdir(parents=True, exist_ok=True)
        save_config(config, self.config)

    def check(self, config: ExperimentConfig) -> None:
        """Checks that what is there, if anything, is a run of the same experiment; writes nothing.

        Raises:
            ConfigError: when the run there differs in what its weights depend on.
        """
        if self.config.exists():
            differences = list(_differences(to_mapping(self.load_config()), to_mapping(config)))
            if differences:
                raise ConfigError(differences, f"{self.path}, which holds another run")

    def load_config(self) -> ExperimentConfig:
        """Reads the run's config.

        Raises:
            ConfigError: when this is not a run folder.
        """
        if not self.config.exists():
            problem = Problem(
                str(self.path),
                Problem.ABSENT,
                "holds no config.yaml",
                "give the folder of a run, e.g. runs/quickstart",
            )
            raise ConfigError([problem], "the run folder")
        return load_config(self.config, for_training=False)


def _differences(there: Any, here: Any, path: str = "") -> Iterator[Problem]:
    if path in _MAY_CHANGE or there == here:
        return
    if isinstance(there, dict) and isinstance(here, dict):
        for key in here.keys() | there.keys():
            yield from _differences(there.get(key), here.get(key), f"{path}.{key}" if path else key)
        return
    mend = "choose another --run-dir or name, or remove the run"
    yield Problem(path, here, f"is {there!r} in the run", mend)
