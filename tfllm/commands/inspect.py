"""The command tfllm inspect."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfllm.commands.arguments import OVERRIDES
from tfllm.commands.start import start_tensorflow
from tfllm.config import ConfigError, ExperimentConfig, Problem, config_from_mapping, load_config
from tfllm.config.build import to_mapping
from tfllm.config.home import expand_home
from tfllm.config.load import config_text

if TYPE_CHECKING:
    from tfllm.experiment.origins.origin import Origin
    from tfllm.experiment.text import Prepared

SUMMARY = "parameters, memory, config and data of a run, of a config, or of another library's checkpoint."

EPILOG = OVERRIDES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "run",
        metavar="RUN_OR_CONFIG",
        help="the folder of a run, a YAML file, or a checkpoint: a folder of transformers, a .gguf file, hf://org/name,"
        " or keras_nlp://preset",
    )
    parser.add_argument(
        "--rows",
        type=int,
        metavar="N",
        help="print instead so many rows as training sees them first: tokens, segments, and what is learned",
    )
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="overrides of the config")


def run(arguments: argparse.Namespace) -> int:
    """Prints the tables."""
    path = None if "://" in arguments.run else expand_home(arguments.run, "RUN_OR_CONFIG")
    is_config = path is not None and path.suffix != ".gguf" and not path.is_dir()
    config = load_config(path, arguments.overrides) if path is not None and is_config else None

    start_tensorflow()
    from tfllm import experiment
    from tfllm.experiment.origins.origin import origin_of

    if arguments.rows is not None and arguments.rows < 1:
        raise ConfigError([Problem("--rows", arguments.rows, "must be at least 1")], "the arguments")
    if config is not None:
        config = experiment.expand(config)
        _print_rows(config, None, arguments.rows) if arguments.rows else _print_config(config, None)
        return 0
    origin = origin_of(arguments.run)
    if origin.run_folder is None and arguments.rows:
        rule, mend = f"needs text, and {arguments.run} comes without", "give a config, or the folder of a run"
        raise ConfigError([Problem("--rows", arguments.rows, rule, mend)], "the arguments")
    if origin.run_folder is None:
        _print_tables([*origin.summary(), ("TOKENIZER", _tokenizer_rows(origin))])
        return 0
    config = experiment.located(origin.config(), origin.run_folder)
    if arguments.overrides:
        mapping, source = to_mapping(config), f"the config of {origin.path}"
        config = config_from_mapping(mapping, arguments.overrides, source=source, for_training=False)
    _print_rows(config, origin, arguments.rows) if arguments.rows else _print_config(config, origin)
    return 0


def _print_rows(config: ExperimentConfig, origin: Origin | None, count: int) -> None:
    """The first rows of a training."""
    from tfllm import experiment
    from tfllm.commands.rows import row_lines
    from tfllm.data.pipeline import training_batches

    if origin is None:
        config = experiment.with_labels(config)
    prepared = experiment.prepare(config, None if origin is None else origin.tokenizer)
    task = experiment.make_task(config, prepared.tokenizer)
    [batch] = training_batches(
        prepared.train,
        global_batch_size=count,
        seed=config.seed,
        num_steps=1,
        transform=task.features,
        aligned=task.aligned,
    )
    for line in row_lines({name: x.numpy() for name, x in batch.items()}, prepared.tokenizer, task):
        print(line)


def _print_config(config: ExperimentConfig, origin: Origin | None) -> None:
    """What a config asks for; and of a run, what it has done."""
    from tfllm import experiment
    from tfllm.training.peak_memory import peak_memory_bytes

    framework = peak_memory_bytes()
    prepared = None
    if origin is not None:
        tokenizer = origin.tokenizer
    else:
        config = experiment.with_labels(config)
        prepared = experiment.prepare(config)
        config = experiment.with_steps(config, prepared.train.num_rows)
        tokenizer = prepared.tokenizer
    model = experiment.make_model(config, tokenizer.vocab_size, training=True)
    _print_parameters(model)
    _print_memory(config, model, experiment.memory_of(config, model, framework=framework))
    _print_arithmetic(config, model)
    _print_data(config, tokenizer, prepared)
    print()
    if origin is not None:
        _print_tables(origin.summary())
    print("CONFIG")
    print("  " + config_text(config).replace("\n", "\n  ").rstrip())


def _print_tables(tables: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> None:
    for title, rows in tables:
        print(title)
        for name, value in rows:
            print(f"  {name:<24} {value}" if name else f"  {value}")
        print()


def _print_data(config: ExperimentConfig, tokenizer: Any, prepared: Prepared | None) -> None:
    """The rows, or why there are none: of a run all the rest can be told without its text."""
    from tfllm import experiment
    from tfllm.data.errors import DataError

    print("\nDATA")
    try:
        prepared = prepared or experiment.prepare(config, tokenizer)
    except (ConfigError, DataError) as error:
        print(f"  {error}")
        return
    for name, rows in prepared.sides.items():
        print(f"  {name:<11} {rows.summary}")
    epochs = config.training.steps * config.training.global_batch_size / prepared.train.num_rows
    print(f"  {'epochs':<11} {epochs:.2f} in {config.training.steps:,} steps")


def _tokenizer_rows(origin: Origin) -> list[tuple[str, str]]:
    from tfllm.tokenizers import TokenizerError

    try:
        tokenizer = origin.tokenizer
    except TokenizerError as error:  # the model can be looked at without it
        return [("", str(error))]

    def names(ids: Sequence[int]) -> str:
        return " ".join(map(tokenizer.token_label, ids)) or "nothing"

    templates = tokenizer.chat_template or {}
    named = {"": templates} if isinstance(templates, str) else templates
    sizes = (f"{name} {len(template)} characters".lstrip() for name, template in named.items())
    return [
        (
            "type",
            f"{tokenizer.type}, {tokenizer.vocab_size} tokens, {len(tokenizer.special_ids)} of them special",
        ),
        *((role, name) for role, name in tokenizer.shown_roles.items()),
        ("around a text", f"{names(tokenizer.prefix_ids)} … {names(tokenizer.suffix_ids)}"),
        ("chat template", ", ".join(sizes) or "none"),
    ]


def _print_parameters(model: Any) -> None:
    from tfllm.convert.summary import parameter_rows, part_of

    parts: Counter[str] = Counter()
    for variable in model.variables:
        parts[part_of(variable.path.partition("/")[2])] += math.prod(variable.shape)
    print("PARAMETERS")
    for part, numbers in parameter_rows(parts):
        print(f"  {part:<36} {numbers}")
    trained = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    if trained < sum(parts.values()):
        print(f"  {'of them trained':<36} {trained:>14,}  {trained / sum(parts.values()):>6.1%}")


def _print_memory(config: ExperimentConfig, model: Any, parts: dict[str, int]) -> None:
    from tfllm.convert.summary import bytes_text
    from tfllm.experiment.cost import Transformer
    from tfllm.generation.model import generates

    rows = (
        config.training.microbatch_size or config.training.global_batch_size // config.distribution.replicas
    )
    print(f"\nMEMORY of a training step, estimated for a device that computes {rows} rows at once")
    for part, size in parts.items():
        print(f"  {part:<36} {bytes_text(size):>14}")
    if not isinstance(model, Transformer):
        print(
            "  activations are not known beforehand of such a model; tfllm train CONFIG --dry-run measures them"
        )
        return
    print(f"  {'total':<36} {bytes_text(sum(parts.values())):>14}")
    if not generates(model):
        return
    kv_width = 2 * model.num_layers * model.num_kv_heads * model.head_dim
    cache = 4 * kv_width * (model.max_seq_len or config.data.seq_len)
    print(f"  {'generation: key-value cache, a row':<36} {bytes_text(cache):>14}")


def _print_arithmetic(config: ExperimentConfig, model: Any) -> None:
    from tfllm import experiment
    from tfllm.generation.model import generates

    flops = experiment.flops_per_token(model, config.data.seq_len)
    print("\nARITHMETIC")
    print(f"  {'training, FLOPs a token':<36} {flops:>14,.0f}")
    step_tokens = config.training.global_batch_size * config.data.seq_len
    print(f"  {'training, FLOPs a step':<36} {flops * step_tokens:>14,.0f}")
    if generates(model):
        print(f"  {'generation, FLOPs a token':<36} {flops / 3:>14,.0f}")
