"""The command tfllm evaluate."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from tfllm.commands.arguments import add_model
from tfllm.commands.start import start_tensorflow
from tfllm.config import ConfigError, ExperimentConfig, Problem, config_from_mapping
from tfllm.config.build import to_mapping

SUMMARY = "loss, perplexity and bits a byte of a run on its validation split, or on other text."

EPILOG = """It prints one JSON object. `own_rows` says whether the rows are those that the run itself held
out: false where text, split or row length are others, null where that is not known.

A run's relative paths lead from the folder it was trained in; those of overrides, from this one.

examples of overrides:
  data.train.path=moved/text.txt   training.microbatch_size=2
  data.validation.type=text_files data.validation.path=other.txt"""

# What an evaluation depends on, beside the weights.
_KEYS = (
    "data",
    "seed",
    "training.global_batch_size",
    "training.microbatch_size",
    "training.jit_compile",
    "training.loss_chunk_tokens",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_model(parser)
    parser.add_argument(
        "overrides",
        metavar="KEY=VALUE",
        nargs="*",
        help="overrides of data.*, seed or training.microbatch_size, as YAML",
    )


def run(arguments: argparse.Namespace) -> int:
    """Evaluates and prints one JSON object."""
    _check(arguments.overrides)

    start_tensorflow()
    from tfllm import experiment
    from tfllm.data.errors import DataError
    from tfllm.experiment.origins.origin import origin_of
    from tfllm.language_model.load import load_origin

    origin = origin_of(arguments.run)
    lm = load_origin(origin)
    untrained = list(lm.config.check_for_training())
    if untrained:
        raise ConfigError(untrained, arguments.run)
    folder = origin.run_folder
    config = lm.config if folder is None else experiment.located(lm.config, folder)
    config = _overridden(config, arguments.overrides, arguments.run)
    try:
        rows = experiment.held_out_rows(config, lm.tokenizer)
    except DataError as error:
        if "matches no file" not in str(error):
            raise
        moved = f"where it has moved, add its new place: tfllm evaluate {arguments.run} data.train.path=..."
        raise DataError(f"{error}; {moved}") from None
    own = are_own(rows, {} if folder is None else folder.about(lm.step))
    if own is False:
        print(
            f"these held-out rows are not the run's own ({rows.summary}): the figures do not compare with those in"
            " its metrics.jsonl, and the run may have been trained on some of the text",
            file=sys.stderr,
        )
    task = experiment.make_task(config, lm.tokenizer)
    evaluator = experiment.make_evaluator(config, lm.model, task, rows)
    print(json.dumps({"step": lm.step, **evaluator.evaluate(), "own_rows": own}))
    return 0


def _check(overrides: Sequence[str]) -> None:
    names = [override.partition("=")[0] for override in overrides]
    wrong = [name for name in names if not any(name == key or name.startswith(f"{key}.") for key in _KEYS)]
    rule = "is not for an evaluation, where the weights are what they are"
    mend = "override data.* (path, validation, cache_dir, ...), seed, training.microbatch_size or training.jit_compile"
    if wrong:
        raise ConfigError([Problem(name, Problem.ABSENT, rule, mend) for name in wrong], "the overrides")


def _overridden(config: ExperimentConfig, overrides: Sequence[str], run: str) -> ExperimentConfig:
    if not overrides:
        return config
    mapping = to_mapping(config)
    return config_from_mapping(mapping, overrides, source=f"the config of {run}", for_training=False)


def are_own(rows: Any, about: dict[str, Any]) -> bool | None:
    """Whether rows are those that a checkpoint's run held out; None where it does not say."""
    if "rows" in about:
        return bool(rows.content == about["rows"]["validation"])
    there = about.get("data", {}).get("validation")  # an earlier version
    return None if there is None else bool(rows.identity == there)
