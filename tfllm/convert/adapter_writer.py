"""Writing adapters as Hugging Face's PEFT reads them."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.convert.adapter import (
    CONFIG_FILE,
    KERNEL,
    PREFIX,
    WEIGHT,
    WEIGHTS_FILE,
    LowRankPair,
    keeps_inputs_first,
    modules,
)
from tfllm.convert.errors import ConvertError
from tfllm.convert.family import Family
from tfllm.convert.new_folder import check_is_new, new_folder
from tfllm.convert.safetensors_files import ONE_FILE, write_safetensors
from tfllm.convert.weight_table import Row
from tfllm.models.decoder import Decoder
from tfllm.models.encoder import Encoder

_TASKS = {
    "sequence_classification": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
    "span": "QUESTION_ANS",
    "none": "FEATURE_EXTRACTION",
}


@dataclasses.dataclass(frozen=True)
class Beside:
    """What stands beside one of our projections.

    Args:
        a: float32 [D, r].
        b: float32 [r, F].
        scale: What their product is multiplied by.
    """

    a: np.ndarray
    b: np.ndarray
    scale: float


def write_adapter(
    folder: str | Path,
    *,
    family: Family,
    arguments: Mapping[str, Any],
    beside: Mapping[str, Beside],
    whole: Collection[str],
    variables: Mapping[str, Any],
    rslora: bool,
    dropout: float,
    base: str | None,
    extras: Callable[[Path], None],
) -> None:
    """Writes a folder that PEFT opens.

    Matrices that the checkpoint keeps as one, such as GPT-2's query, key and value, have one pair of matrices there:
    theirs side by side, of the sum of their ranks, each with zeros where the others' outputs are.

    Args:
        folder: Must not exist yet, or be empty; it appears when all of it is written.
        family: Of the base.
        arguments: Of the model.
        beside: What stands beside projections, by their paths without the model's own name.
        whole: Paths of the variables that were trained whole.
        variables: Of the model, by path.
        rslora: Scales are alpha / √r.
        dropout: Share of the input that was dropped before it.
        base: What the base is called.
        extras: Writes further files into the folder, which it is given.

    Raises:
        ConvertError: when the folder holds something, or PEFT's layout has no place for what was trained.
    """
    folder, arguments = Path(folder), family.kind.resolved(dict(arguments))
    check_is_new(folder)
    bare = family.heads is not None and family.heads.bare(arguments)
    rows = [
        dataclasses.replace(row, theirs=row.theirs.removeprefix(family.prefix) if bare else row.theirs)
        for row in family.rows(arguments)
    ]
    matrices = modules(rows)
    pairs = {
        module: _pair(row, beside, variables, rslora)
        for module, row in matrices.items()
        if any(path.removesuffix(KERNEL) in beside for path in row.ours)
    }
    bias = _bias(rows, whole, pairs)
    saved = _saved_modules(rows, set(whole) - _biases(rows, pairs, bias), pairs)
    ranks = {module: len(pair.a) for module, pair in pairs.items()}
    alphas = {module: pair.alpha for module, pair in pairs.items()}
    rank, alpha = _commonest(ranks.values()), _commonest(alphas.values())
    config = {
        "peft_type": "LORA",
        "task_type": _task_type(family, arguments),
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {module: each for module, each in ranks.items() if each != rank},
        "alpha_pattern": {module: each for module, each in alphas.items() if each != alpha},
        "use_rslora": rslora,
        "lora_dropout": dropout,
        "target_modules": _targets(pairs, matrices),
        "modules_to_save": _names_of(saved, rows, pairs) or None,
        "fan_in_fan_out": any(keeps_inputs_first(pair.row) for pair in pairs.values()),
        "bias": bias,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    with new_folder(folder) as part:
        (part / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_safetensors(part, _tensors(rows, pairs, saved, bias, variables), shard_bytes=2**62)
        (part / ONE_FILE).rename(part / WEIGHTS_FILE)
        extras(part)


def _pair(row: Row, beside: Mapping[str, Beside], variables: Mapping[str, Any], rslora: bool) -> LowRankPair:
    """What stands beside the matrices of a row, as one pair."""
    held = [beside.get(path.removesuffix(KERNEL)) for path in row.ours]
    there = [each for each in held if each is not None]
    rank, scale = sum(each.b.shape[0] for each in there), there[0].scale
    columns, first = [], 0
    for path, each in zip(row.ours, held, strict=True):
        block = np.zeros((rank, variables[path].shape[-1]), np.float32)
        if each is not None:
            block[first : first + len(each.b)] = each.b * np.float32(each.scale / scale)
            first += len(each.b)
        columns.append(block)
    joined = row.layout.join(columns)
    return LowRankPair(
        row,
        a=np.ascontiguousarray(np.concatenate([each.a for each in there], axis=1).T),
        b=np.ascontiguousarray(joined.T if keeps_inputs_first(row) else joined),
        alpha=scale * (rank**0.5 if rslora else rank),
    )


def _bias(rows: Sequence[Row], whole: Collection[str], pairs: Collection[str]) -> str:
    """PEFT's word for the biases that were trained: all; lora_only, those of what is adapted; or none."""
    for word in ("all", "lora_only"):
        theirs = _biases(rows, pairs, word)
        if theirs and theirs <= set(whole):
            return word
    return "none"


def _biases(rows: Sequence[Row], pairs: Collection[str], word: str) -> set[str]:
    """Our paths of the biases that PEFT's word means."""
    return {path for row in rows if _is_bias(row, pairs, word) for path in row.ours}


def _is_bias(row: Row, pairs: Collection[str], word: str) -> bool:
    module, _, end = row.theirs.rpartition(".")
    return word != "none" and end == "bias" and (word == "all" or module in pairs)


def _saved_modules(
    rows: Sequence[Row], whole: Collection[str], pairs: Collection[str]
) -> dict[str, list[Row]]:
    """The modules that hold what was trained whole, each with all of its rows."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        module, _, end = row.theirs.rpartition(".")
        if not set(row.ours) & set(whole):
            continue
        if end not in ("weight", "bias") or module in pairs:
            raise ConvertError(
                f"{row.ours[0]} was trained whole, and PEFT keeps whole modules that have nothing beside them; merge"
                " the model, or save it as tfllm"
            )
        found[module] = [each for each in rows if each.theirs.rpartition(".")[0] == module]
    return found


def _names_of(saved: Collection[str], rows: Sequence[Row], pairs: Collection[str]) -> list[str]:
    """The outermost modules of which all was trained whole: PEFT adds the usual heads, and one may hold no other."""
    all_modules = {row.theirs.rpartition(".")[0] for row in rows}

    def is_whole(name: str) -> bool:
        inside = {module for module in all_modules if f"{module}.".startswith(f"{name}.")}
        return inside <= set(saved) and not inside & set(pairs)

    names = set()
    for module in saved:
        words = module.split(".")
        outer = (".".join(words[:count]) for count in range(1, len(words) + 1))
        names.add(next(name for name in outer if is_whole(name)))
    return sorted(names)


def _targets(pairs: Collection[str], matrices: Collection[str]) -> list[str]:
    """The shortest ends of names that no other module has."""
    targets = set()
    for module in pairs:
        words = module.split(".")
        ends = (".".join(words[-n:]) for n in range(1, len(words) + 1))
        targets.add(
            next(
                end
                for end in ends
                if all(name in pairs for name in matrices if f".{name}".endswith(f".{end}"))
            )
        )
    return sorted(targets)


def _task_type(family: Family, arguments: Mapping[str, Any]) -> str | None:
    if family.kind.model is Encoder:
        return None if arguments["next_sentence_head"] else _TASKS.get(arguments["head"])
    if family.kind.model is Decoder:
        return _TASKS.get(arguments["head"], "CAUSAL_LM")
    return "SEQ_2_SEQ_LM"


def _tensors(
    rows: Sequence[Row],
    pairs: Mapping[str, LowRankPair],
    saved: Mapping[str, Sequence[Row]],
    bias: str,
    variables: Mapping[str, Any],
) -> Iterator[tuple[str, np.ndarray]]:
    for module, pair in pairs.items():
        yield f"{PREFIX}{module}.lora_A{WEIGHT}", pair.a
        yield f"{PREFIX}{module}.lora_B{WEIGHT}", pair.b
    whole = {row.theirs: row for each in saved.values() for row in each}
    for row in rows:
        if row.theirs in whole or _is_bias(row, pairs, bias):
            module, _, end = row.theirs.rpartition(".")
            inside = f"{module}.base_layer.{end}" if module in pairs else row.theirs
            tensor = row.layout.join([np.asarray(variables[path]) for path in row.ours])
            yield PREFIX + inside, tensor.astype(np.float32)


def _commonest(values: Iterable[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]
