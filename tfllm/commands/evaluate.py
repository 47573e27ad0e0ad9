"""The command tfllm evaluate."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from tfllm.commands.arguments import add_model
from tfllm.commands.start import start_tensorflow
from tfllm.commands.whole_file import whole_file
from tfllm.config import ConfigError, ExperimentConfig, Problem, config_from_mapping
from tfllm.config.build import to_mapping
from tfllm.config.sections import FEWEST_SAMPLES

SUMMARY = "what a run reaches on the text that it held out, or on other text."

EPILOG = """It prints one JSON object. `own_rows` says whether the rows are those that the run itself held
out: false where text, split or row length are others, null where that is not known. `chosen_by` says what chose the
checkpoint, such as validation accuracy: figures of the validation split are then too good, and those of the test split
are not. Null is the last checkpoint.

Of classes and numbers of texts it tells 95% intervals too (--bootstrap 1000), and by how much a run exceeds
another on the same examples (--against RUN), with the interval of the difference.

A run's relative paths lead from the folder it was trained in; those of overrides, from this one.

examples of overrides:
  data.train.path=moved/text.txt   training.microbatch_size=2
  data.validation.type=text_files data.validation.path=other.txt"""

_SAMPLES = 1000
# What an evaluation depends on, beside the weights.
_KEYS = (
    "data",
    "evaluation",
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
        "--split",
        choices=("validation", "test"),
        default="validation",
        help="which text (default: %(default)s)",
    )
    parser.add_argument(
        "--bootstrap", type=int, metavar="N", help="draw N samples of the examples, and tell 95%% intervals"
    )
    parser.add_argument(
        "--against", metavar="MODEL", help="tell too how much this one exceeds another on the same examples"
    )
    parser.add_argument(
        "--predictions",
        metavar="FILE",
        help="write a JSON line of each example: its number, and what was said of it",
    )
    parser.add_argument(
        "overrides",
        metavar="KEY=VALUE",
        nargs="*",
        help="overrides of data.*, evaluation.*, seed or training.microbatch_size, as YAML",
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
    task = experiment.make_task(config, lm.tokenizer)
    _check_examples(arguments, getattr(task, "of_examples", ()), config)
    try:
        measured = experiment.measure(config, lm.model, lm.tokenizer, arguments.split, run=folder)
    except DataError as error:
        if "matches no file" not in str(error):
            raise
        moved = f"where it has moved, add its new place: tfllm evaluate {arguments.run} data.train.path=..."
        raise DataError(f"{error}; {moved}") from None
    own = are_own(measured.rows, {} if folder is None else folder.about(lm.step), arguments.split)
    if own is False:
        print(
            f"these held-out rows are not the run's own ({measured.rows.summary}): the figures do not compare with"
            " those in its metrics.jsonl, and the run may have been trained on some of the text",
            file=sys.stderr,
        )
    found: dict[str, Any] = {
        "step": lm.step,
        "split": arguments.split,
        "chosen_by": None if folder is None else experiment.chosen_by(folder, lm.step),
        **measured.evaluation.metrics,
        "own_rows": own,
    }
    told = arguments.bootstrap or (config.evaluation.bootstrap_samples if measured.of_examples else 0)
    if told:
        found["intervals"] = measured.intervals(told)
    if measured.signatures:
        found["signatures"] = measured.signatures
    if arguments.against:
        found["against"] = _against(arguments, config, measured, told or _SAMPLES)
    if arguments.predictions:
        _write_predictions(arguments.predictions, measured.evaluation.predictions)
    print(json.dumps(found))
    return 0


def _against(
    arguments: argparse.Namespace, config: ExperimentConfig, measured: Any, samples: int
) -> dict[str, Any]:
    """What another model says of the same text, and by how much the metrics of the first exceed its own."""
    from tfllm import experiment
    from tfllm.evaluation.bootstrap import differences
    from tfllm.experiment.origins.origin import origin_of
    from tfllm.language_model.load import load_origin

    model = arguments.against
    lm = load_origin(origin_of(model))
    data = {
        **to_mapping(config)["data"],
        "seq_len": lm.config.data.seq_len,
        "packing": lm.config.data.packing,
    }
    mapping = {
        **to_mapping(lm.config),
        "data": data,
        "seed": config.seed,
        "evaluation": to_mapping(config.evaluation),
    }
    theirs = config_from_mapping(mapping, source=f"the config of {model}", for_training=False)
    other = experiment.make_task(theirs, lm.tokenizer)
    names = [name for name in measured.of_examples if name in getattr(other, "of_examples", ())]
    rule = "says nothing of the same examples: it is of another task, or leaves others out"
    problem = Problem("--against", model, rule, "name a run of the same task")
    if not names:
        raise ConfigError([problem], "the arguments")
    said = experiment.measure(
        theirs, lm.model, lm.tokenizer, arguments.split, run=origin_of(model).run_folder
    )
    ours, others = measured.evaluation.predictions, said.evaluation.predictions
    if [each.number for each in ours] != [each.number for each in others]:
        raise ConfigError([problem], "the arguments")
    spans = differences((measured.metrics, ours), (said.metrics, others), names, samples=samples)
    return {
        "model": model,
        **{
            name: {
                "theirs": said.evaluation.metrics[name],
                "difference": measured.evaluation.metrics[name] - said.evaluation.metrics[name],
                "interval": spans[name],
            }
            for name in names
        },
    }


def _check_examples(arguments: argparse.Namespace, names: Sequence[str], config: ExperimentConfig) -> None:
    """Options that need a prediction of each example."""
    asked = {"--bootstrap": arguments.bootstrap, "--against": arguments.against}
    for option, value in {**asked, "--predictions": arguments.predictions}.items():
        if value is not None and not names:
            rule = f"needs a prediction of each example, and task.type={config.task.type} has none"
            raise ConfigError([Problem(option, value, rule, "leave it out")], "the arguments")
    if arguments.bootstrap is not None and arguments.bootstrap < FEWEST_SAMPLES:
        rule = f"is too few for a 95% interval, which needs {FEWEST_SAMPLES}"
        raise ConfigError([Problem("--bootstrap", arguments.bootstrap, rule, "write 1000")], "the arguments")


def _write_predictions(path: str, predictions: Sequence[Any]) -> None:
    lines = (
        {
            "number": each.number,
            **{name: value.tolist() for name, value in each.values.items()},
            **(_texts_of(each.record) if each.record is not None else {}),
        }
        for each in predictions
    )
    with whole_file(path, "--predictions") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)


def _texts_of(record: Any) -> dict[str, Any]:
    """What a record says beside which the prediction is to be read."""
    return {
        name: value for name, value in record.fields.items() if isinstance(value, (str, int, float, list))
    }


def _check(overrides: Sequence[str]) -> None:
    names = [override.partition("=")[0] for override in overrides]
    wrong = [name for name in names if not any(name == key or name.startswith(f"{key}.") for key in _KEYS)]
    rule = "is not for an evaluation, where the weights are what they are"
    mend = (
        "override data.* (path, validation, test, cache_dir, ...), evaluation.*, seed, training.microbatch_size or"
        " training.jit_compile"
    )
    if wrong:
        raise ConfigError([Problem(name, Problem.ABSENT, rule, mend) for name in wrong], "the overrides")


def _overridden(config: ExperimentConfig, overrides: Sequence[str], run: str) -> ExperimentConfig:
    if not overrides:
        return config
    mapping = to_mapping(config)
    return config_from_mapping(mapping, overrides, source=f"the config of {run}", for_training=False)


def are_own(rows: Any, about: dict[str, Any], side: str = "validation") -> bool | None:
    """Whether rows are those that a checkpoint's run held out; None where it does not say."""
    if "rows" in about:
        return bool(rows.content == about["rows"].get(side))
    there = about.get("data", {}).get(side)  # an earlier version
    return None if there is None else bool(rows.identity == there)
