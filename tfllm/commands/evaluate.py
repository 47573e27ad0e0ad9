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

SUMMARY = "loss, perplexity and bits a byte of a run on its validation split, or on other text."

EPILOG = """It prints one JSON object. `own_rows` says whether the rows are those that the run itself held
out: false where text, split or row length are others, null where that is not known.

Of classes and numbers of texts it tells 95% intervals too (--bootstrap 1000), and by how much a run exceeds
another on the same examples (--against RUN), with the interval of the difference.

A run's relative paths lead from the folder it was trained in; those of overrides, from this one.

examples of overrides:
  data.train.path=moved/text.txt   training.microbatch_size=2
  data.validation.type=text_files data.validation.path=other.txt"""

_SAMPLES, _FEWEST = 1000, 40
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
        help="overrides of data.*, seed or training.microbatch_size, as YAML",
    )


def run(arguments: argparse.Namespace) -> int:
    """Evaluates and prints one JSON object."""
    _check(arguments.overrides)

    start_tensorflow()
    from tfllm import experiment
    from tfllm.data.errors import DataError
    from tfllm.evaluation.bootstrap import intervals
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
    names = getattr(task, "of_examples", ())
    _check_examples(arguments, names, config)
    evaluation = experiment.make_evaluator(config, lm.model, task, rows).run()
    found: dict[str, Any] = {"step": lm.step, **evaluation.metrics, "own_rows": own}
    samples = arguments.bootstrap or _SAMPLES
    if arguments.bootstrap:
        found["intervals"] = intervals(
            _metrics(task, evaluation), evaluation.predictions, names, samples=samples
        )
    if arguments.against:
        found["against"] = _against(arguments.against, config, task, evaluation, samples)
    if arguments.predictions:
        _write_predictions(arguments.predictions, evaluation.predictions)
    print(json.dumps(found))
    return 0


def _metrics(task: Any, evaluation: Any) -> Any:
    return lambda predictions: task.evaluation_metrics(evaluation.sums, predictions)


def _against(
    model: str, config: ExperimentConfig, task: Any, evaluation: Any, samples: int
) -> dict[str, Any]:
    """What another model says of the same text, and by how much the metrics of the first exceed its own."""
    from tfllm import experiment
    from tfllm.evaluation.bootstrap import differences
    from tfllm.experiment.origins.origin import origin_of
    from tfllm.language_model.load import load_origin

    lm = load_origin(origin_of(model))
    data = {
        **to_mapping(config)["data"],
        "seq_len": lm.config.data.seq_len,
        "packing": lm.config.data.packing,
    }
    mapping = {**to_mapping(lm.config), "data": data, "seed": config.seed}
    theirs = config_from_mapping(mapping, source=f"the config of {model}", for_training=False)
    other = experiment.make_task(theirs, lm.tokenizer)
    names = [name for name in task.of_examples if name in getattr(other, "of_examples", ())]
    rule = "says nothing of the same examples: it is of another task, or leaves others out"
    problem = Problem("--against", model, rule, "name a run of the same task")
    if not names:
        raise ConfigError([problem], "the arguments")
    said = experiment.make_evaluator(
        theirs, lm.model, other, experiment.held_out_rows(theirs, lm.tokenizer)
    ).run()
    if [each.number for each in evaluation.predictions] != [each.number for each in said.predictions]:
        raise ConfigError([problem], "the arguments")
    ours, others = ((_metrics(*each), each[1].predictions) for each in ((task, evaluation), (other, said)))
    spans = differences(ours, others, names, samples=samples)
    return {
        "model": model,
        **{
            name: {
                "theirs": said.metrics[name],
                "difference": evaluation.metrics[name] - said.metrics[name],
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
    if arguments.bootstrap is not None and arguments.bootstrap < _FEWEST:
        rule = f"is too few for a 95% interval, which needs {_FEWEST}"
        raise ConfigError([Problem("--bootstrap", arguments.bootstrap, rule, "write 1000")], "the arguments")


def _write_predictions(path: str, predictions: Sequence[Any]) -> None:
    lines = (
        {"number": each.number, **{name: value.tolist() for name, value in each.values.items()}}
        for each in predictions
    )
    with whole_file(path, "--predictions") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)


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
