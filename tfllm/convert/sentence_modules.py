"""How a text becomes a vector, as a folder of sentence-transformers says: `modules.json` and the files beside it.

Sentence-BERT: Reimers and Gurevych 2019.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from tfllm.convert.errors import ConvertError
from tfllm.convert.safetensors_files import SafetensorsFiles, write_safetensors

MODULES_FILE = "modules.json"
_TEXT_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "xlm-roberta", "camembert", "albert", "xlnet")
)
_PROMPTS_FILE, _TOKENIZER_FILE = "config_sentence_transformers.json", "tokenizer_config.json"
_LIBRARY = "sentence_transformers."
# In the order in which the library puts several side by side where a file has a switch for each.
_SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_erf = np.vectorize(math.erf, otypes=[np.float32])
_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Tanh": np.tanh,
    "Identity": lambda x: x,
    "ReLU": lambda x: np.maximum(x, 0.0),
    "Sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "SiLU": lambda x: x / (1.0 + np.exp(-x)),
    "GELU": lambda x: 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Dense:
    """A layer behind the pooling.

    Args:
        weight: float32 [out, in].
        bias: float32 [out], or None.
        activation: One of the library's.
        residual: float32 [out, in], what is added of the input; None is nothing.
    """

    weight: np.ndarray
    bias: np.ndarray | None
    activation: str
    residual: np.ndarray | None = None

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """float32 [B, in] -> [B, out]."""
        made = vectors @ self.weight.T
        made = _ACTIVATIONS[self.activation](made if self.bias is None else made + self.bias)
        return made if self.residual is None else made + vectors @ self.residual.T


@dataclasses.dataclass(frozen=True, eq=False)
class SentenceModules:
    """How a text becomes a vector.

    Args:
        poolings: Side by side in the vector: cls, max, mean, mean_sqrt_len_tokens, weightedmean or lasttoken.
        layers: What follows, in order: a `Dense`, or None, which divides a vector by its length.
        include_prompt: Whether the tokens of a prompt are pooled too.
        max_seq_length: Tokens of a text at most, those around it included; None is as many as the model reads.
        cut_left: Whether what is too long loses its beginning.
        do_lower_case: Whether texts are lowered first.
        prompts: Name to what stands before a text.
        default_prompt: Name of the one taken where none is asked for.
    """

    poolings: tuple[str, ...] = ("mean",)
    layers: tuple[Dense | None, ...] = ()
    include_prompt: bool = True
    max_seq_length: int | None = None
    cut_left: bool = False
    do_lower_case: bool = False
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    default_prompt: str | None = None

    @property
    def normalizes(self) -> bool:
        """Whether vectors have the length 1."""
        return bool(self.layers) and self.layers[-1] is None

    def prepared(self, text: str) -> str:
        """A text as it is tokenized."""
        return tokenizers.normalizers.Lowercase().normalize_str(text) if self.do_lower_case else text

    def vectors(self, states: np.ndarray, mask: np.ndarray, prompt_length: int = 0) -> np.ndarray:
        """Pools and goes through the layers.

        Args:
            states: float32 [B, T, D].
            mask: bool [B, T], true for real tokens.
            prompt_length: Tokens of each text that belong to a prompt.

        Returns:
            float32 [B, E].
        """
        places = np.cumsum(mask, axis=1)  # from 1
        kept = mask if self.include_prompt else mask & (places > prompt_length)
        made = np.concatenate([pooled(kind, states, kept, places) for kind in self.poolings], axis=1)
        for layer in self.layers:
            made = unit(made) if layer is None else layer(made)
        return made.astype(np.float32)

    def save(self, folder: Path, *, hidden_dim: int) -> None:
        """Writes the files that the library reads, beside a model's own.

        Args:
            folder: Where to; made where it does not exist.
            hidden_dim: The width of the model's states.
        """
        folder.mkdir(parents=True, exist_ok=True)
        kinds = [
            "Transformer",
            "Pooling",
            *("Normalize" if layer is None else "Dense" for layer in self.layers),
        ]
        paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds) if i)]
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"{_LIBRARY}models.{kind}"}
            for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
        ]
        _write(folder / MODULES_FILE, modules)
        _write(
            folder / _TEXT_FILES[0],
            {"max_seq_length": self.max_seq_length, "do_lower_case": self.do_lower_case},
        )
        _write(
            folder / _PROMPTS_FILE,
            {"prompts": dict(self.prompts), "default_prompt_name": self.default_prompt},
        )
        switches = {switch: kind in self.poolings for switch, kind in _SWITCHES.items()}
        in_order = tuple(kind for kind in _SWITCHES.values() if kind in self.poolings) == self.poolings
        how = switches if in_order else {"pooling_mode": list(self.poolings)}
        sizes = {"word_embedding_dimension": hidden_dim}
        (folder / paths[1]).mkdir(exist_ok=True)
        _write(folder / paths[1] / "config.json", {**sizes, **how, "include_prompt": self.include_prompt})
        for layer, path in zip(self.layers, paths[2:], strict=True):
            (folder / path).mkdir(exist_ok=True)
            if layer is not None:
                _save_dense(layer, folder / path)


def transformer_folder(folder: Path) -> Path:
    """Where a folder of sentence-transformers has its model: in itself, or in a subfolder that `modules.json` names."""
    if (folder / "config.json").exists() or not (folder / MODULES_FILE).is_file():
        return folder
    return folder / str(_modules(folder)[0]["path"])


def read_sentence_modules(folder: Path) -> SentenceModules | None:
    """Reads how a folder's texts become vectors; None where it does not say.

    Raises:
        ConvertError: when a file is damaged, or says what is not computed here.
    """
    if not (folder / MODULES_FILE).is_file():
        return None
    first, *others = _modules(folder)
    where = folder / MODULES_FILE
    if _kind(where, first) != "Transformer" or not others or _kind(where, others[0]) != "Pooling":
        raise ConvertError(
            f"{where}: the modules must be a Transformer, a Pooling and what follows it, not"
            f" {', '.join(str(module['type']) for module in (first, *others))}; take another checkpoint"
        )
    pooling = _json(folder / str(others[0]["path"]) / "config.json")
    layers = [_layer(where, folder, module) for module in others[1:]]
    prompts = _json(folder / _PROMPTS_FILE, optional=True)
    names = _prompts(folder / _PROMPTS_FILE, prompts)
    return SentenceModules(
        poolings=_poolings(folder / str(others[0]["path"]) / "config.json", pooling),
        layers=tuple(layer for layer in layers if layer != "nothing"),
        include_prompt=bool(pooling.get("include_prompt", True)),
        prompts=names,
        default_prompt=prompts.get("default_prompt_name"),
        **_reading(folder / str(first["path"])),
    )


def pooled(kind: str, states: np.ndarray, mask: np.ndarray, places: np.ndarray) -> np.ndarray:
    """One vector for each row.

    Args:
        kind: As in `SentenceModules.poolings`.
        states: float32 [B, T, D].
        mask: bool [B, T], true for what is pooled.
        places: int [B, T], of real tokens in their texts, from 1.

    Returns:
        float32 [B, D].
    """
    if kind in ("cls", "lasttoken"):
        width = mask.shape[1]
        place = mask.argmax(axis=1) if kind == "cls" else width - 1 - mask[:, ::-1].argmax(axis=1)
        return states[np.arange(len(states)), place]
    if kind == "max":
        return np.where(mask[:, :, None], states, -np.inf).max(axis=1)
    weights = (mask * places if kind == "weightedmean" else mask).astype(np.float32)
    total = np.einsum("BTD,BT->BD", np.where(mask[:, :, None], states, 0.0), weights)
    count = np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
    return total / (np.sqrt(count) if kind == "mean_sqrt_len_tokens" else count)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1: float32 [B, E] -> the same."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _modules(folder: Path) -> list[dict[str, Any]]:
    path = folder / MODULES_FILE
    modules = _json(path, kind=list)
    for module in modules:
        known = isinstance(module, dict) and {"type", "path"} <= module.keys()
        if not known or ".." in Path(str(module["path"])).parts or Path(str(module["path"])).is_absolute():
            raise ConvertError(
                f"{path}: {module!r} must be a module with a type and a path in the folder; mend it"
            )
    if not modules:
        raise ConvertError(f"{path} must name modules; download it again")
    return sorted(modules, key=lambda module: module["idx"] if isinstance(module.get("idx"), int) else 0)


def _kind(where: Path, module: Mapping[str, Any]) -> str:
    name = str(module["type"])
    if not name.startswith(_LIBRARY):
        raise ConvertError(
            f"{where}: the module {name!r} is code of the checkpoint's own; take another checkpoint"
        )
    return name.rpartition(".")[2]


def _layer(where: Path, folder: Path, module: Mapping[str, Any]) -> Any:
    kind, path = _kind(where, module), folder / str(module["path"])
    config = _json(path / "config.json", optional=True)
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise ConvertError(
                f"{path / 'config.json'}: {key}={config[key]!r} is not computed; take another checkpoint"
            )
    if kind == "Dropout":  # of training
        return "nothing"
    if kind == "Normalize":
        return None
    if kind == "Dense":
        return _dense(path, config)
    raise ConvertError(
        f"{where}: the module {module['type']!r} is not computed; take a checkpoint without it"
    )


def _dense(path: Path, config: Mapping[str, Any]) -> Dense:
    where = path / "config.json"
    name = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    if name not in _ACTIVATIONS:
        raise ConvertError(
            f"{where}: activation_function={config['activation_function']!r} is not computed; there are"
            f" {', '.join(_ACTIVATIONS)}"
        )
    if not any(path.glob("*.safetensors")) and any(path.glob("*.bin")):
        raise ConvertError(
            f"{path} holds its weights as a pickle, which may run code; save the checkpoint again with a newer"
            " sentence-transformers, as safetensors"
        )
    files = SafetensorsFiles(path)
    names = [name for name in ("linear.weight", "linear.bias", "residual.weight") if name in files.shapes]
    read = {name: np.asarray(files.read(name), np.float32) for name in names}
    sizes = (config.get("out_features"), config.get("in_features"))
    found = files.shapes.get("linear.weight")
    if found is None or found != sizes or files.shapes.get("linear.bias", found[:1]) != found[:1]:
        raise ConvertError(
            f"{path}: its weights {dict(files.shapes)} must be those of a layer of {sizes}; mend it"
        )
    residual = None
    if config.get("use_residual"):
        residual = read.get(
            "residual.weight", np.eye(found[0], dtype=np.float32) if found[0] == found[1] else None
        )
        if residual is None or residual.shape != found:
            raise ConvertError(f"{path} must hold residual.weight of {sizes}, as its config says; mend it")
    return Dense(read["linear.weight"], read.get("linear.bias"), name, residual)


def _save_dense(layer: Dense, path: Path) -> None:
    config = {
        "in_features": layer.weight.shape[1],
        "out_features": layer.weight.shape[0],
        "bias": layer.bias is not None,
        "activation_function": f"torch.nn.modules.{'linear' if layer.activation == 'Identity' else 'activation'}"
        f".{layer.activation}",
    }
    tensors = {"linear.weight": layer.weight, "linear.bias": layer.bias}
    if layer.residual is not None:
        config["use_residual"] = True
        square = layer.weight.shape[0] == layer.weight.shape[1]
        tensors["residual.weight"] = None if square else layer.residual
    _write(path / "config.json", config)
    write_safetensors(path, ((name, value) for name, value in tensors.items() if value is not None))


def _poolings(where: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    found = config.get("pooling_mode")
    if found is None:
        found = [kind for switch, kind in _SWITCHES.items() if config.get(switch)] or ["mean"]
    kinds = tuple(found) if isinstance(found, list) else (found,)
    for kind in kinds:
        if kind not in _SWITCHES.values():
            raise ConvertError(
                f"{where}: pooling_mode={kind!r} is not computed; there are {', '.join(_SWITCHES.values())}"
            )
    return kinds


def _reading(folder: Path) -> dict[str, Any]:
    """How texts are read, as the transformer's files say."""
    where = next(
        (folder / name for name in _TEXT_FILES if (folder / name).is_file()), folder / _TEXT_FILES[0]
    )
    config, tokenizer = _json(where, optional=True), _json(folder / _TOKENIZER_FILE, optional=True)
    for key, usual in (
        ("transformer_task", "feature-extraction"),
        ("module_output_name", "token_embeddings"),
    ):
        if config.get(key) not in (None, usual):
            raise ConvertError(f"{where}: {key}={config[key]!r} is not computed; take another checkpoint")
    for key in ("query_length", "document_length", "query_expansion"):
        if config.get(key) is not None:
            raise ConvertError(f"{where}: {key}={config[key]!r} is not computed; take another checkpoint")
    modalities = config.get("modality_config")
    text = (
        modalities.get("text")
        if isinstance(modalities, dict)
        else {"method_output_name": "last_hidden_state"}
    )
    if not isinstance(text, dict) or text.get("method_output_name") not in (
        "last_hidden_state",
        ["last_hidden_state"],
    ):
        raise ConvertError(
            f"{where}: modality_config={modalities!r} is not computed; take another checkpoint"
        )
    longest = config.get("max_seq_length")
    longest = tokenizer.get("model_max_length") if longest is None else longest
    if (
        isinstance(longest, bool)
        or not isinstance(longest, int | float | None)
        or (longest is not None and not longest >= 1)  # nor NaN
    ):
        raise ConvertError(
            f"{where}: max_seq_length={longest!r} must be a number of tokens from 1 on; mend the file"
        )
    return {
        # Where a tokenizer has no limit, its file says 10 ** 30.
        "max_seq_length": None if longest is None or longest > 10**8 else int(longest),
        "do_lower_case": bool(config.get("do_lower_case", False)),
        "cut_left": tokenizer.get("truncation_side") == "left",
    }


def _prompts(where: Path, config: Mapping[str, Any]) -> dict[str, str]:
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(
        isinstance(text, str) or text is None for text in prompts.values()
    ):
        raise ConvertError(f"{where}: prompts={prompts!r} must give each name a text; mend the file")
    if default is not None and default not in list(prompts):  # which may be a list, or a mapping
        raise ConvertError(
            f"{where}: default_prompt_name={default!r} must be one of {list(prompts)}; mend the file"
        )
    return {name: text or "" for name, text in prompts.items()}


def _json(path: Path, *, optional: bool = False, kind: type = dict) -> Any:
    if optional and not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConvertError(f"{path} is not a JSON file ({error}); download it again") from None
    if not isinstance(found, kind):
        raise ConvertError(f"{path} must hold a {'mapping' if kind is dict else 'list'}; download it again")
    return found


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
