"""Every key of a config, listed from the dataclasses: a new one is here as soon as it is written."""

import dataclasses
import typing

from tfllm.config import ExperimentConfig


def all_keys() -> dict[str, object]:
    """Names → defaults, e.g. `training.steps`, `model:decoder.num_layers`, `optimizer:adamw.groups`, `groups.freeze`.

    What stands before a colon is the registry, behind it the type. `model:encoder` is a key too: the type, where
    it is not the default one. The default of a key that is required is `dataclasses.MISSING`.
    """
    keys: dict[str, object] = {}
    _section(ExperimentConfig, "", keys)
    return keys


def _section(cls, where, keys):
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.name == "type":
            continue
        name = f"{where}.{field.name}" if where else field.name
        inner = next((arg for arg in _within(hints[field.name]) if dataclasses.is_dataclass(arg)), None)
        if inner is not None and typing.get_origin(hints[field.name]) is not tuple:
            _section(inner, name, keys)  # a section: its keys are the promises
            continue
        registry = field.metadata.get("registry")
        if registry is None or registry.default is None:
            keys[name] = field.default  # else the types are the values, and each is a key of its own
        if inner is not None and f"{field.name}.{dataclasses.fields(inner)[0].name}" not in keys:
            _section(inner, field.name, keys)  # a list of sections
        if registry is not None:
            _registered(registry, keys)


def _registered(registry, keys):
    for kind in registry.names():
        name = f"{registry.section}:{kind}"
        if name in keys:
            continue  # a mixture holds sources, of which one may be a mixture
        if kind != registry.default:
            keys[name] = registry.default
        _section(registry.get(kind), name, keys)


def _within(hint):
    yield hint
    for arg in typing.get_args(hint):
        yield from _within(arg)
