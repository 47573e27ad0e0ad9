"""The command tfllm inspect."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfllm.commands.arguments import OVERRIDES
from tfllm.commands.start import start_tensorflow
from tfllm.config import ConfigError, ExperimentConfig, config_from_mapping, load_config
from tfllm.config.build import to_mapping
from tfllm.config.load import config_text
from tfllm.experiment.run_folder import RunFolder

SUMMARY = "parameters, memory, config and data of a run, of a config, or of another library's checkpoint."

EPILOG = OVERRIDES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "run",
        metavar="RUN_OR_CONFIG",
        help="the folder of a run, a YAML file, or a checkpoint: a folder of transformers, a .gguf file, or hf://org/name",
    )
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="overrides of the config")


def run(arguments: argparse.Namespace) -> int:
    """Prints the tables."""
    from tfllm.convert.hub import local_path

    path = local_path(arguments.run)
    if path.suffix == ".gguf" or (path / "config.json").exists():
        return _inspect_checkpoint(path)
    is_run = path.is_dir()
    folder = RunFolder(path)
    config = folder.load_config() if is_run else load_config(path, arguments.overrides)

    start_tensorflow()
    from tfllm import experiment
    from tfllm.tokenizers import read_tokenizer
    from tfllm.training.peak_memory import peak_memory_bytes

    if is_run:
        config = experiment.located(config, folder)
        if arguments.overrides:
            mapping, source = to_mapping(config), f"the config of {path}"
            config = config_from_mapping(mapping, arguments.overrides, source=source, for_training=False)
    config = experiment.expand(config)
    framework = peak_memory_bytes()
    tokenizer = read_tokenizer(folder.tokenizer) if is_run else experiment.prepare(config).tokenizer
    model = experiment.make_model(config, tokenizer.vocab_size, training=True)
    _print_parameters(model)
    _print_memory(config, model, experiment.memory_of(config, model, framework=framework))
    _print_arithmetic(config, experiment.flops_per_token(model, config.data.seq_len))
    _print_data(config, tokenizer)
    if is_run:
        _print_run(folder)
    print("\nCONFIG")
    print("  " + config_text(config).replace("\n", "\n  ").rstrip())
    return 0


def _print_data(config: ExperimentConfig, tokenizer: Any) -> None:
    """The rows, or why there are none: of a run all the rest can be told without its text."""
    from tfllm import experiment
    from tfllm.data.errors import DataError

    print("\nDATA")
    try:
        prepared = experiment.prepare(config, tokenizer)
    except (ConfigError, DataError) as error:
        print(f"  {error}")
        return
    for name, rows in (("train", prepared.train), ("validation", prepared.validation)):
        print(f"  {name:<11} {rows.summary}")
    epochs = config.training.steps * config.training.global_batch_size / prepared.train.num_rows
    print(f"  {'epochs':<11} {epochs:.2f} in {config.training.steps:,} steps")


def _inspect_checkpoint(path: Path) -> int:
    start_tensorflow()
    from tfllm.convert.checkpoint import read_checkpoint
    from tfllm.convert.summary import summary

    for title, rows in [*summary(read_checkpoint(path)), ("TOKENIZER", _tokenizer_rows(path))]:
        print(title)
        for name, value in rows:
            print(f"  {name:<24} {value}" if name else f"  {value}")
        print()
    return 0


def _tokenizer_rows(path: Path) -> list[tuple[str, str]]:
    from tfllm.experiment.model_source import tokenizer_of
    from tfllm.tokenizers import TokenizerError

    try:
        tokenizer = tokenizer_of(path)
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
    parts: Counter[str] = Counter()
    for variable in model.variables:
        parts[_part(variable.path)] += math.prod(variable.shape)
    total = sum(parts.values())
    print("PARAMETERS")
    for part, count in parts.items():
        print(f"  {part:<36} {count:>14,} {count / total:>7.1%}")
    print(f"  {'total':<36} {total:>14,}")


def _part(path: str) -> str:
    """`decoder/block_03/attention/query/kernel` → `blocks/attention`."""
    names = path.split("/")[1:]
    return f"blocks/{names[1]}" if names[0].startswith("block_") else names[0]


def _print_memory(config: ExperimentConfig, model: Any, parts: dict[str, int]) -> None:
    from tfllm.experiment.cost import Transformer

    rows = (
        config.training.microbatch_size or config.training.global_batch_size // config.distribution.replicas
    )
    print(f"\nMEMORY of a training step, estimated for a device that computes {rows} rows at once")
    for part, size in parts.items():
        print(f"  {part:<36} {_bytes(size):>14}")
    if not isinstance(model, Transformer):
        print(
            "  activations are not known beforehand of such a model; tfllm train CONFIG --dry-run measures them"
        )
        return
    print(f"  {'total':<36} {_bytes(sum(parts.values())):>14}")
    kv_width = 2 * model.num_layers * model.num_kv_heads * model.head_dim
    cache = 4 * kv_width * (model.max_seq_len or config.data.seq_len)
    print(f"  {'generation: key-value cache, a row':<36} {_bytes(cache):>14}")


def _print_arithmetic(config: ExperimentConfig, flops: float) -> None:
    print("\nARITHMETIC")
    print(f"  {'training, FLOPs a token':<36} {flops:>14,.0f}")
    step_tokens = config.training.global_batch_size * config.data.seq_len
    print(f"  {'training, FLOPs a step':<36} {flops * step_tokens:>14,.0f}")
    print(f"  {'generation, FLOPs a token':<36} {flops / 3:>14,.0f}")


def _print_run(folder: RunFolder) -> None:
    from tfllm.training.checkpoint import checkpoint_paths
    from tfllm.training.metrics_log import read_metrics

    print("\nRUN")
    print(f"  checkpoints {', '.join(p.name for p in checkpoint_paths(folder.checkpoints)) or 'none'}")
    last: dict[str, dict[str, Any]] = {}
    for entry in read_metrics(folder.metrics):
        last[entry["split"]] = entry
    for split, entry in last.items():
        numbers = {k: v for k, v in entry.items() if k not in ("step", "split")}
        print(f"  {split:<11} step {entry['step']}: " + ", ".join(f"{k} {v}" for k, v in numbers.items()))


def _bytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
