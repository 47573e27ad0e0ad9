"""Reading adapters as Hugging Face's PEFT writes them: `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.convert.adapter import CONFIG_FILE, PREFIX, WEIGHTS_FILE, Adapter, LowRankPair, modules
from tfllm.convert.config_reader import shown
from tfllm.convert.errors import ConvertError
from tfllm.convert.family import Family
from tfllm.convert.safetensors_files import SafetensorsFiles
from tfllm.convert.weight_table import Row
from tfllm.json_text import read_json

_MERGE = "merge it into its base with PEFT (merge_and_unload) and load that"
# What changes the base, or what is added, in ways that are not computed here.
_REFUSED = {
    "use_dora": "it scales the columns of the sums (DoRA)",
    "use_qalora": "it pools what it reads (QA-LoRA)",
    "use_bdlora": "its matrices are block-diagonal",
    "lora_bias": "its matrices have biases",
    "layer_replication": "it repeats layers of its base",
    "target_parameters": "it adds to parameters that are no projections",
    "trainable_token_indices": "it holds rows of an embedding apart",
    "alora_invocation_tokens": "it acts behind certain tokens only (aLoRA)",
    "arrow_config": "a router mixes it with others (Arrow)",
}
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")  # others begin by changing the base
# Read below, or of no concern to what is computed.
# fmt: off
_KNOWN = {
    "beta1", "beta2", "deltaT", "init_r", "orth_reg_weight", "target_r", "tfinal", "tinit", "total_step",  # AdaLoRA's
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_config",
    "megatron_core", "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern",
    "revision", "runtime_config", "target_modules", "task_type", "use_rslora",
}
# fmt: on
# Files of some programs leave the adapter's own name in, `default` or another.
_LOW_RANK = re.compile(r"(.+)\.lora_([ABE])(?:\.(?!weight$)[\w-]+)?(?:\.weight)?")
_WRAPPED = re.compile(r"\.(base_layer|modules_to_save(\.(?!weight$|bias$)[\w-]+(?=\.(weight|bias)$))?)(?=\.)")
_EMBEDDED = re.compile(r"\.lora_embedding_[AB]")
_PICKLE = "adapter_model.bin"
_LARGEST = 1e6
_LONGEST_PATTERN, _MOST_QUANTIFIERS = 200, 3


def read_adapter(folder: str | Path, family: Family, arguments: Mapping[str, Any]) -> Adapter:
    """Reads an adapter for a model.

    Args:
        folder: Holds both files.
        family: A family of checkpoints that the base can be.
        arguments: Of the model, with the head that the adapter was trained for.

    Raises:
        ConvertError: when a file is missing, damaged or asks for what is not computed here, or the adapter is
            another model's.
    """
    folder = Path(folder)
    config = read_adapter_config(folder)
    if not (folder / WEIGHTS_FILE).exists() and (folder / _PICKLE).exists():
        raise ConvertError(
            f"{folder / _PICKLE} is a Python pickle, which runs code when it is read, and is not opened; where you"
            " trust it, PEFT rewrites it: save_pretrained(..., safe_serialization=True)"
        )
    tensors = SafetensorsFiles(folder, WEIGHTS_FILE)
    names = {name: _WRAPPED.sub("", name.removeprefix(PREFIX)) for name in tensors.shapes}
    rows = _by_name(family, dict(arguments), names.values())
    parts: dict[str, dict[str, str]] = {}
    whole: dict[str, tuple[Row, np.ndarray]] = {}
    for name, inside in names.items():
        found = _LOW_RANK.fullmatch(inside)
        if found is not None:
            parts.setdefault(found[1], {})[found[2]] = name
        elif _EMBEDDED.search(inside):
            raise ConvertError(
                f"{folder}: {shown(name)} adds to an embedding, which is not computed; {_MERGE}"
            )
        elif inside in rows:
            whole[rows[inside].theirs] = rows[inside], tensors.read(name).astype(np.float32)
        else:
            raise _not_there(folder, name, family, rows)
    if not parts and not whole:
        raise ConvertError(f"{folder / WEIGHTS_FILE} holds nothing; save the adapter again")
    _check_saved(folder, config, [_in_table(rows, name) for name in whole])
    _check_tied(folder, whole, names.values())
    return Adapter(
        path=folder,
        pairs=tuple(_pairs(folder, config, parts, rows, family, tensors)),
        whole=tuple(whole.values()),
        rank=config["r"],
        alpha=float(config["lora_alpha"]),
        scaling="rslora" if config.get("use_rslora") else "standard",
        dropout=float(config.get("lora_dropout") or 0.0),
        base=config.get("base_model_name_or_path"),
        task_type=config.get("task_type"),
    )


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """What an adapter says of itself, where all of it is understood.

    Raises:
        ConvertError: with what is not, or is missing.
    """
    where = folder / CONFIG_FILE
    try:
        config = read_json(where)
    except FileNotFoundError:
        raise ConvertError(f"{folder} holds no {CONFIG_FILE}; give the folder of an adapter") from None
    except (OSError, ValueError) as error:
        raise ConvertError(f"{where} is not a JSON file ({error}); download it again") from None
    if not isinstance(config, dict):
        raise ConvertError(f"{where} must hold a mapping, not {type(config).__name__}")
    if config.get("peft_type") not in ("LORA", "ADALORA"):
        kind = shown(config.get("peft_type"))
        raise ConvertError(f"{where}: peft_type={kind} is not read; adapters of type LORA and ADALORA are")
    for key, value in config.items():
        if key in _REFUSED and value not in (None, False, {}, []):
            raise ConvertError(
                f"{where}: {key}={shown(value)}: {_REFUSED[key]}, which is not computed; {_MERGE}"
            )
        if key not in _KNOWN and key not in _REFUSED and value not in (None, False, {}, []):
            raise ConvertError(f"{where}: {shown(key)}={shown(value)} is not known; {_MERGE}")
    start = config.get("init_lora_weights")
    if not any(start is plain or start == plain for plain in _PLAIN_STARTS):
        raise ConvertError(
            f"{where}: init_lora_weights={shown(start)} begins by changing the base, which is not computed; save it"
            " with PEFT's path_initial_model_for_weight_conversion, or merge it into its base"
        )
    if config["peft_type"] == "ADALORA":
        config = {**config, "r": config.get("init_r", 12), "rank_pattern": {}}
    rank, alpha = (config.setdefault(key, 8) for key in ("r", "lora_alpha"))  # PEFT's own default of both
    if not _is_number(rank) or rank != int(rank):
        raise ConvertError(f"{where}: r={shown(rank)} must be a whole number above 0")
    if not _is_number(alpha):
        raise ConvertError(f"{where}: lora_alpha={shown(alpha)} must be a number above 0")
    return config


def _pairs(
    folder: Path,
    config: Mapping[str, Any],
    parts: Mapping[str, Mapping[str, str]],
    rows: Mapping[str, Row],
    family: Family,
    tensors: SafetensorsFiles,
) -> Iterator[LowRankPair]:
    """What stands beside each module; `parts` has the names of its tensors by the half that they are."""
    matrices, adaptive = modules(rows.values()), config["peft_type"] == "ADALORA"
    for module, names in parts.items():
        row = rows.get(f"{module}.weight")
        if row is None or row.theirs.removesuffix(".weight") not in matrices:
            raise _not_there(folder, next(iter(names.values())), family, rows)
        if set(names) != set("ABE" if adaptive else "AB"):
            raise ConvertError(
                f"{folder}: {shown(next(iter(names.values())))} has no other half; download it again"
            )
        half = {part: tensors.read(name).astype(np.float32) for part, name in names.items()}
        if adaptive:
            yield from _fallen(folder, config, module, row, half["A"], half["E"], half["B"])
        else:
            yield _pair(folder, config, module, row, half["A"], half["B"])


def _by_name(family: Family, arguments: dict[str, Any], names: Collection[str]) -> dict[str, Row]:
    """The rows of a family by what the files of an adapter may call them, with or without its prefix."""
    rows = family.rows(family.kind.resolved(arguments))
    bare = not any(name.startswith(family.prefix) for name in names)
    strip = (lambda name: name.removeprefix(family.prefix)) if bare else (lambda name: name)
    return {strip(name): row for row in rows for name in (row.theirs, *row.copies)}


def _in_table(rows: Mapping[str, Row], theirs: str) -> str:
    return next(name for name, row in rows.items() if row.theirs == theirs)


def _not_there(folder: Path, name: str, family: Family, rows: Mapping[str, Row]) -> ConvertError:
    inside = _LOW_RANK.sub(r"\1.weight", _WRAPPED.sub("", name.removeprefix(PREFIX)))
    near = difflib.get_close_matches(inside, rows, 1, 0.0)
    return ConvertError(
        f"{folder}: {shown(name)} belongs to no part of this model, read as a {family.model_type}"
        + (f"; it has for example {near[0]}" if near else "")
        + ". Take the base that the adapter was trained on"
    )


def _check_saved(folder: Path, config: Mapping[str, Any], there: Sequence[str]) -> None:
    """What the config says was trained whole is in the file."""
    saved = config.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
        raise ConvertError(f"{folder / CONFIG_FILE}: modules_to_save={shown(saved)} must be a list of names")
    # Where PEFT knows the task it asks for the usual names of heads, whether the model has them or not.
    heads = {"classifier", "score", "qa_outputs"} if config.get("task_type") else set()
    for name in saved:
        held = any(f".{name}." in f".{tensor}" for tensor in there)
        if not held and name not in heads:
            raise ConvertError(
                f"{folder}: modules_to_save names {shown(name)}, of which {WEIGHTS_FILE} holds nothing; save the"
                " adapter again"
            )


def _check_tied(folder: Path, whole: Mapping[str, Any], names: Collection[str]) -> None:
    """An output layer that is the embedding was not trained apart from it."""
    for row, _ in whole.values():
        apart = [name for name in row.copies if any(n.endswith(name) for n in names)]
        if apart and row.ours[0] == "token_embedding/embeddings":
            raise ConvertError(
                f"{folder}: {apart[0]} was trained apart from the embedding, which it is tied to in this base; {_MERGE}"
            )


def _pair(
    folder: Path, config: Mapping[str, Any], module: str, row: Row, a: np.ndarray, b: np.ndarray
) -> LowRankPair:
    rank = _by_pattern(folder, config, "rank_pattern", module, config["r"])
    if a.ndim != 2 or b.ndim != 2 or len(a) != rank or b.shape[1] != rank:
        raise ConvertError(
            f"{folder}: the matrices beside {module} are {list(a.shape)} and {list(b.shape)}, and {CONFIG_FILE} says"
            f" rank {rank}; download both files again"
        )
    alpha = _by_pattern(folder, config, "alpha_pattern", module, config["lora_alpha"])
    return LowRankPair(row, a, b, float(alpha))


def _fallen(
    folder: Path,
    config: Mapping[str, Any],
    module: str,
    row: Row,
    a: np.ndarray,
    e: np.ndarray,
    b: np.ndarray,
) -> Iterator[LowRankPair]:
    """AdaLoRA's x·A·diag(E)·B, as a pair; of a rank that fell to nothing, none."""
    if e.shape != (len(a), 1) or b.ndim != 2 or b.shape[1] != len(a):
        raise ConvertError(
            f"{folder}: the parts beside {module} are {list(a.shape)}, {list(e.shape)} and {list(b.shape)}, which do"
            " not go together; download it again"
        )
    scale = config["lora_alpha"] / (config["r"] + 1e-5)  # as PEFT has it, whatever rank is left
    if len(a):
        yield LowRankPair(row, a * e, b, scale * len(a))


def _by_pattern(folder: Path, config: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    """What the first pattern says that fits the end of a module's name, as PEFT reads them."""
    patterns = config.get(key) or {}
    where = folder / CONFIG_FILE
    if not isinstance(patterns, dict):
        raise ConvertError(f"{where}: {key} must be a mapping, not {type(patterns).__name__}")
    for pattern, value in patterns.items():
        # A pattern from a file that others wrote: what could be tried in very many ways is not tried.
        many = (
            len(pattern) > _LONGEST_PATTERN
            or sum(map(pattern.count, "*+?{")) > _MOST_QUANTIFIERS
            or re.search(r"\)[*+?{]", pattern) is not None
        )
        try:
            if many:
                raise ValueError("it is longer, or repeats more, than is read")
            fits = re.fullmatch(rf"(.*\.)?({pattern})", module)
        except (ValueError, re.error) as error:
            raise ConvertError(
                f"{where}: {key} has {shown(pattern)}, which is no pattern ({error})"
            ) from None
        if fits:
            if not _is_number(value):
                raise ConvertError(
                    f"{where}: {key} gives {shown(pattern)} {shown(value)}; it must be above 0"
                )
            return value
    return default


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < _LARGEST
