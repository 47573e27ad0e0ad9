"""An adapter in PEFT's layout: what a config says of it, and its values in a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfllm.config import ConfigError, ExperimentConfig, Problem, config_from_mapping
from tfllm.config.build import to_mapping
from tfllm.config.home import expand_home
from tfllm.config.peft import LoraConfig
from tfllm.convert.adapter import KERNEL, Adapter, assigned, keeps_inputs_first, modules
from tfllm.convert.adapter_reader import read_adapter
from tfllm.convert.errors import ConvertError
from tfllm.convert.family import Family
from tfllm.convert.huggingface import fitting_families
from tfllm.convert.weight_table import variables_by_path
from tfllm.experiment.model import peft_method
from tfllm.models.decoder import Decoder
from tfllm.models.encoder import Encoder
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.peft.lora import NAME
from tfllm.peft.targets import projections

_MODELS: dict[str, type] = {"decoder": Decoder, "encoder": Encoder, "encoder_decoder": EncoderDecoder}
# Of the section, what the files of an adapter say.
_ITS_OWN = ("rank", "alpha", "scaling", "targets", "rank_pattern", "alpha_pattern")


def read_adapter_for(config: ExperimentConfig, folder: str | Path) -> tuple[Adapter, dict[str, Any]]:
    """Reads an adapter of the model that a config describes.

    Args:
        config: The experiment, its model by its own type.
        folder: Of the adapter.

    Returns:
        The adapter, and what a section `peft` says of it.

    Raises:
        ConvertError: when the folder is not understood, or is another model's.
    """
    arguments = _arguments(config)
    failures: list[ConvertError] = []
    for family in fitting_families(_class_of(config, folder), arguments):
        try:
            adapter = read_adapter(folder, family, arguments)
            return adapter, _section(adapter, family, arguments)
        except ConvertError as error:
            failures.append(error)
    if failures:
        raise failures[0]
    raise ConvertError(f"{folder}: this model is of no family whose adapters PEFT keeps; train one anew")


def with_adapter(config: ExperimentConfig) -> ExperimentConfig:
    """Puts the shape of the adapter that `peft.source` names in the place of what the section leaves open.

    Raises:
        ConfigError: when something else is asked for.
        ConvertError: as `read_adapter_for`.
    """
    source = getattr(config.peft, "source", None)
    if source is None:
        return config
    _, section = read_adapter_for(config, expand_home(source, "peft.source"))
    asked, defaults = to_mapping(config.peft), to_mapping(LoraConfig())
    problems = [
        Problem(f"peft.{key}", asked[key], f"is {section[key]} in {source}", "leave it out")
        for key in _ITS_OWN
        if asked[key] not in (defaults[key], section[key])
    ]
    if problems:
        raise ConfigError(problems, "the config")
    train = list(dict.fromkeys([*asked["train"], *section["train"]]))
    peft = {**asked, **{key: section[key] for key in _ITS_OWN}, "train": train}
    return config_from_mapping({**to_mapping(config), "peft": peft}, source="the config with its adapter")


def assign_adapter(adapter: Adapter, model: Any) -> None:
    """Puts an adapter's values into a model that was made from the section it gave.

    Raises:
        ConvertError: when something is of another shape; the model is then as it was.
    """
    values = list(assigned(adapter, variables_by_path(model), name=NAME))
    for variable, value in values:
        if tuple(variable.shape) != value.shape:
            raise ConvertError(
                f"{adapter.path}: what it holds for {variable.path} is {list(value.shape)}, and the model wants"
                f" {list(variable.shape)}; take the base that it was trained on"
            )
    for variable, value in values:
        variable.assign(tf.convert_to_tensor(value))


def change_adapter(
    model: Any, config: ExperimentConfig, folder: str | Path | None, covered: dict[str, Any]
) -> ExperimentConfig:
    """Puts another adapter beside the matrices of a model, in the place of what stands there.

    Args:
        model: The model.
        config: Its experiment.
        folder: Of the adapter; None leaves the base alone.
        covered: The base's own values of variables that the adapter before held whole, by path; they are put back,
            and those that this one holds are put here.

    Returns:
        The experiment with the adapter's section `peft`.

    Raises:
        ConvertError: when the adapter is not understood or stands beside another model; the model is then as it was.
    """
    if config.peft is not None and not config.peft.sums:
        raise ConvertError(
            f"this model was tuned with peft.type={config.peft.type}, whose layers nothing takes the place of; load its"
            " base, and put adapters beside that"
        )
    plain = dataclasses.replace(config, peft=None)
    adapter, section = (None, None) if folder is None else read_adapter_for(plain, folder)
    variables = variables_by_path(model)
    for row, tensor in () if adapter is None else adapter.whole:
        shape = row.layout.shape([tuple(variables[path].shape) for path in row.ours if path in variables])
        if tensor.shape != shape:
            raise ConvertError(
                f"{folder}: {row.theirs} is {list(tensor.shape)} there and {list(shape)} in this model, so it cannot be"
                " put in its place; load the adapter with its base"
            )
    for pair in () if adapter is None else adapter.pairs:
        whole = pair.row.layout.shape([tuple(variables[path].shape) for path in pair.row.ours])
        inputs, outputs = whole if keeps_inputs_first(pair.row) else whole[::-1]
        if (pair.a.shape[1], len(pair.b)) != (inputs, outputs):
            raise ConvertError(
                f"{folder}: what stands beside {pair.row.theirs} is for a matrix of {pair.a.shape[1]} x {len(pair.b)},"
                f" and this model's is {inputs} x {outputs}; take the base that it was trained on"
            )
    paths = [] if adapter is None else [path for row, _ in adapter.whole for path in row.ours]
    trained = {variable.path.split("/", 1)[1] for variable in model.trainable_variables}
    lost = {path for path in trained if f"/{NAME}/" not in path} - covered.keys() - set(paths)
    if config.peft is not None and lost:
        raise ConvertError(
            f"{sorted(lost)[0]} was trained whole by the adapter that the model was loaded with, and its base's own is"
            " not here; load the base alone, and put adapters beside it with use_adapter"
        )
    for projection in projections(model).values():
        if projection.beside is not None:
            projection.remove_beside()
    for path, value in covered.items():
        variables[path].assign(value)
    covered.clear()
    if adapter is None or section is None:
        return plain
    changed = with_section(plain, section)
    peft_method(changed).attach(model)
    covered.update({path: variables[path].numpy() for path in paths})
    assign_adapter(adapter, model)
    return changed


def _arguments(config: ExperimentConfig) -> dict[str, Any]:
    section = to_mapping(config.model)
    left = {key: value for key, value in section.items() if key not in ("type", "size", "source", "new_head")}
    # The number of tokens is nothing that a name depends on.
    return {
        **left,
        "vocab_size": section["vocab_size"] or 1,
        "max_seq_len": section["max_seq_len"] or config.context_length,
    }


def _class_of(config: ExperimentConfig, folder: str | Path) -> type:
    if config.model.type not in _MODELS:
        raise ConvertError(
            f"{folder}: adapters of PEFT stand beside models of type {', '.join(_MODELS)}, and this is one of type"
            f" {config.model.type}"
        )
    return _MODELS[config.model.type]


def _section(adapter: Adapter, family: Family, arguments: Mapping[str, Any]) -> dict[str, Any]:
    rows = family.rows(family.kind.resolved(dict(arguments)))
    there = {path.removesuffix(KERNEL) for row in modules(rows).values() for path in row.ours}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for pair in adapter.pairs:
        for path in pair.row.ours:
            ranks[path.removesuffix(KERNEL)] = len(pair.a)
            alphas[path.removesuffix(KERNEL)] = pair.alpha
    return {
        "type": "lora",
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "scaling": adapter.scaling,
        "dropout": adapter.dropout,
        "targets": _targets(ranks, there),
        "rank_pattern": {f"*/{path}": rank for path, rank in ranks.items() if rank != adapter.rank},
        "alpha_pattern": {f"*/{path}": alpha for path, alpha in alphas.items() if alpha != adapter.alpha},
        "train": [f"*/{path}" for row, _ in adapter.whole for path in row.ours],
    }


def _targets(adapted: Iterable[str], there: Iterable[str]) -> list[str]:
    """`all`, or names where all of that name are adapted, or paths."""
    adapted, inside = set(adapted), {path for path in there if "block_" in path}
    if adapted == inside:
        return ["all"]
    last = {path: path.rpartition("/")[2] for path in there}
    names = {last[path] for path in adapted}
    whole = {name for name in names if {path for path in last if last[path] == name} <= adapted}
    return sorted([*whole, *(f"*/{path}" for path in adapted if last[path] not in whole)])


def with_section(config: ExperimentConfig, section: Mapping[str, Any], **model: Any) -> ExperimentConfig:
    """A config with another section `peft`, and other keys of its model."""
    mapping = to_mapping(config)
    mapping["model"] = {**mapping["model"], **model}
    return config_from_mapping({**mapping, "peft": dict(section)}, for_training=False)
