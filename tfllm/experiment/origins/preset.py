"""A preset of KerasHub (`keras_nlp`)."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfllm.config import ExperimentConfig, config_from_mapping
from tfllm.convert.checkpoint import CONFIG_FILE, DTYPES
from tfllm.convert.errors import ConvertError
from tfllm.convert.sentence_modules import SentenceModules
from tfllm.convert.summary import BYTES, Section, bytes_text, parameter_rows
from tfllm.experiment.run_folder import RunFolder
from tfllm.json_text import read_json
from tfllm.models.errors import ModelError
from tfllm.models.keras_nlp_model import KerasNlpModel
from tfllm.tokenizers import Tokenizer
from tfllm.tokenizers.files.keras_nlp_preset import read_keras_nlp_tokenizer

PRESET = "keras_nlp://"
_LONGEST = 512  # where the backbone has no limit


@dataclasses.dataclass(frozen=True)
class _Backbone:
    """What a preset says of its backbone.

    Args:
        name: Its class in `keras_hub.models`.
        settings: The arguments of the class.
        dtype: The type of its weights.
    """

    name: str
    settings: Mapping[str, Any]
    dtype: str


class PresetOrigin:
    """A preset of KerasHub: a name or handle that it knows, or a folder that it saved.

    Args:
        source: `keras_nlp://` and the preset.
    """

    run_folder: RunFolder | None = None

    def __init__(self, source: str):
        self.source = source
        self.preset = source.removeprefix(PRESET)
        folder = Path(self.preset)
        self.path = folder if folder.is_dir() else None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer; TokenizerError where it has none, or one of a class that is not known."""
        return read_keras_nlp_tokenizer(self.preset)

    @property
    def stored_dtype(self) -> str:
        """The type that its config names; float32 where it is none of ours."""
        return self._backbone.dtype if self._backbone.dtype in DTYPES else "float32"

    def config(self) -> ExperimentConfig:
        """What a run's config would say of it, without text to train on."""
        longest = self.learned_positions() or _LONGEST
        mapping = {
            "name": re.sub(r"[^\w.-]+", "-", Path(self.preset).name).lstrip(".-") or "preset",
            "tokenizer": {"type": "pretrained", "source": self.source},
            "model": self.model_section(),
            "data": {"seq_len": max(2, min(256, longest)), "packing": False},
            "generation": {"max_new_tokens": max(1, min(64, longest - 1)), "temperature": 0.0, "top_p": 1.0},
        }
        return config_from_mapping(mapping, for_training=False)

    def model_section(self) -> dict[str, Any]:
        """The `model` section of a config that starts from it: the preset itself, weights included."""
        longest = self.learned_positions()
        return {"type": "keras_nlp", "preset": self.preset, "source": None, "max_seq_len": longest}

    def learned_positions(self) -> int | None:
        """The longest row of its backbone; None where it has no limit."""
        return self._backbone.settings.get("max_sequence_length")

    def stop_tokens(self) -> list[str]:
        """None beside the tokenizer's own."""
        return []

    def sentence_modules(self) -> SentenceModules | None:
        """None: a preset does not say."""
        return None

    def notes(self) -> list[str]:
        """Nothing: KerasHub reads its own files."""
        return []

    def check(self) -> None:
        """Finds nothing that `model_section` does not find: KerasHub reads its own files."""

    def load(self, dtype: str, *, notify: Callable[[str], None]) -> tuple[Any, int]:
        """The model, and no updates."""
        del notify  # nothing is passed over
        return KerasNlpModel(preset=self.preset, dtype=dtype), 0

    def fill(self, model: Any, *, new_head: bool, notify: Callable[[str], None]) -> None:
        """Copies the weights into a model of the same backbone."""
        del new_head, notify
        if not isinstance(model, KerasNlpModel):
            raise ConvertError(
                f"{self.source} has the weights of a {self._backbone.name}, and the model is a {type(model).__name__};"
                " write model.type=pretrained, or keras_nlp"
            )
        theirs = {variable.path: variable for variable in KerasNlpModel(preset=self.preset).variables}
        ours = {variable.path: variable for variable in model.variables}
        for path in (*ours, *theirs):
            shapes = [tuple(side[path].shape) if path in side else None for side in (theirs, ours)]
            if shapes[0] != shapes[1]:
                raise ConvertError(
                    f"{self.source}: {path} has the shape {shapes[0]} there and {shapes[1]} in the model; take the"
                    f" {self._backbone.name} of the preset, with model.preset={self.preset}"
                )
        for path, variable in ours.items():
            variable.assign(tf.cast(theirs[path].value, variable.dtype))

    def summary(self) -> list[Section]:
        """Backbone, sizes, parameters, and memory."""
        found, parts = self._backbone, Counter[str]()
        for variable in _made(self.preset, dtype=self.stored_dtype).weights:
            parts[re.sub(r"_\d+$", "", variable.path.split("/")[0])] += math.prod(variable.shape)
        total = sum(parts.values())
        sizes = {k: v for k, v in found.settings.items() if k not in ("name", "trainable", "dtype")}
        return [
            ("FAMILY", [("type", found.name), ("stored as", found.dtype)]),
            ("MODEL", [(name, str(value)) for name, value in sizes.items() if value not in (None, False)]),
            ("PARAMETERS", parameter_rows(parts)),
            ("MEMORY", [(precision, bytes_text(total * size)) for precision, size in BYTES.items()]),
        ]

    @cached_property
    def _backbone(self) -> _Backbone:
        """Read from the config of a folder that KerasHub saved; asked of it for any other preset."""
        config = _saved_config(self.path / CONFIG_FILE) if self.path is not None else None
        if config is None:
            made = _made(self.preset)
            return _Backbone(type(made).__name__, made.get_config(), made.variable_dtype)
        settings = config["config"]
        policy = keras.dtype_policies.get(settings.get("dtype") or "float32")
        return _Backbone(str(config["class_name"]), settings, policy.variable_dtype)


def _saved_config(path: Path) -> dict[str, Any] | None:
    """What KerasHub wrote; None where the folder is of transformers, whose config says other things."""
    try:
        config = read_json(path)
    except FileNotFoundError:
        raise ModelError(
            f"preset={str(path.parent)!r} holds no {CONFIG_FILE}; give the folder of a preset, or the name of one"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not a JSON file ({error}); download it again") from None
    if (
        not isinstance(config, dict)
        or not isinstance(config.get("config"), dict)
        or "class_name" not in config
    ):
        return None
    return config


def _made(preset: str, **settings: Any) -> Any:
    """The backbone with new weights."""
    import keras_hub

    try:
        return keras_hub.models.Backbone.from_preset(preset, load_weights=False, **settings)
    except Exception as error:  # of any kind: of the network, of files, of arguments
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"preset={preset!r} cannot be loaded ({reason}); without a network, download the preset elsewhere and give"
            " its folder"
        ) from error
