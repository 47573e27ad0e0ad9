"""An adapter in PEFT's layout, and the base that it stands beside."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.config import ConfigError, ExperimentConfig, Problem, config_from_mapping
from tfllm.config.build import to_mapping
from tfllm.convert.adapter import CONFIG_FILE, WEIGHTS_FILE, Adapter
from tfllm.convert.adapter_reader import read_adapter_config
from tfllm.convert.assignment import HEAD_LAYERS, POOLER, RESIZED, copy_weights
from tfllm.convert.errors import ConvertError
from tfllm.convert.safetensors_files import SafetensorsFiles
from tfllm.convert.sentence_modules import SentenceModules, read_sentence_modules
from tfllm.convert.summary import Section
from tfllm.experiment.adapter import assign_adapter, read_adapter_for, with_section
from tfllm.experiment.base import check_base, sample_of
from tfllm.experiment.model import make_model, merged
from tfllm.json_text import read_json
from tfllm.peft.adapters import NAME as ADAPTER
from tfllm.peft.lora import NAME as LORA
from tfllm.peft.targets import is_head
from tfllm.tokenizers import NoTokenizerError, Tokenizer, read_tokenizer

OURS = "tfllm.json"  # what a run says of the model, which PEFT has no place for
_SECTIONS = ("name", "task", "model", "generation", "peft")
_HEADS = {
    "SEQ_CLS": "sequence_classification",
    "TOKEN_CLS": "token_classification",
    "QUESTION_ANS": "span",
}
_HEAD_WEIGHTS = ("classifier.weight", "classifier.out_proj.weight", "score.weight", "qa_outputs.weight")


class AdapterOrigin:
    """An adapter: LoRA of Hugging Face's PEFT, or what `LanguageModel.save(to="peft")` wrote.

    Args:
        source: What it was called by.
        path: Its folder.
        base: Opens the base.
    """

    run_folder = None

    def __init__(self, source: str, path: Path, base: Callable[[], Any]):
        self.source, self.path, self._open_base = source, path, base

    @cached_property
    def base(self) -> Any:
        """The origin of what it stands beside."""
        return self._open_base()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its own, or else that of its base; NoTokenizerError where neither has one."""
        try:
            return read_tokenizer(self.path)
        except NoTokenizerError:
            return self.base.tokenizer

    @property
    def stored_dtype(self) -> str:
        """That of its base."""
        return self.base.stored_dtype

    def config(self) -> ExperimentConfig:
        """That of its base, with a section `peft`."""
        return self._config

    def model_section(self) -> dict[str, Any]:
        """The `model` section of a config that starts from it, the sums in the place of its base's matrices."""
        return {**to_mapping(self._config.model), "source": self.source, "new_head": False}

    def learned_positions(self) -> int | None:
        """As its base's."""
        return self.base.learned_positions()

    def stop_tokens(self) -> list[str]:
        """Those of its config."""
        return list(self._config.generation.stop_tokens)

    def sentence_modules(self) -> SentenceModules | None:
        """What its own folder says, or else that of its base."""
        return read_sentence_modules(self.path) or self.base.sentence_modules()

    def notes(self) -> list[str]:
        """Those of its base."""
        return self.base.notes()

    def check(self) -> None:
        """Raises where the base or the adapter does not hold what it says."""
        self.base.check()
        _ = self._adapter

    def load(self, dtype: str, *, notify: Callable[[str], None]) -> tuple[Any, int]:
        """The model, with what stands beside its matrices, and no updates."""
        config = self._config
        model = make_model(config, config.model.vocab_size or self.tokenizer.vocab_size, dtype=dtype)
        heads = [variable for variable in model.variables if is_head(variable.path)]
        for variable in heads:  # so that what nobody fills is seen
            variable.assign(np.full(variable.shape, math.nan))
        self.base.fill(model, new_head=config.model.new_head, notify=notify)
        check_base(self._ours.get("base"), model, what=str(self.path), source=str(self.base.source))
        assign_adapter(self._adapter, model)
        for variable in heads:
            if np.isnan(np.asarray(variable, np.float32)).any():
                raise ConvertError(
                    f"{self.path}: {variable.path} stands neither in the adapter nor in its base {self.base.source}, so"
                    " it would be random; save the adapter with it (PEFT's modules_to_save)"
                )
        return model, 0

    def fill(self, model: Any, *, new_head: bool, notify: Callable[[str], None]) -> None:
        """Reads the sums into a model; more tokens than they have begin as the mean of the others."""
        whole, _ = self.load("float32", notify=notify)
        learned = getattr(self._config.model, POOLER, "none") != "none"
        leave = (LORA, ADAPTER, *((*HEAD_LAYERS, *(() if learned else (POOLER,))) if new_head else ()))
        copy_weights(merged(whole, self._config), model, leave=leave, resize=RESIZED)

    def summary(self) -> list[Section]:
        """What it adds, and the summary of its base."""
        peft: Any = self._config.peft
        matrices = [(pair.row, pair.a.size + pair.b.size) for pair in self._adapter.pairs]
        rows = [
            ("beside", str(self.base.source)),
            ("rank, alpha", f"{peft.rank}, {peft.alpha:g} ({peft.scaling})"),
            ("targets", ", ".join(peft.targets)),
            ("low-rank pairs", str(len(matrices))),
            ("parameters", f"{sum(size for _, size in matrices):,}"),
            ("trained whole", ", ".join(row.theirs for row, _ in self._adapter.whole) or "none"),
        ]
        return [("ADAPTER", rows), *self.base.summary()]

    @property
    def _config(self) -> ExperimentConfig:
        return self._read[0]

    @property
    def _adapter(self) -> Adapter:
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[ExperimentConfig, Adapter]:
        mapping = self._mapping()
        config = config_from_mapping({**mapping, "peft": None}, source=str(self.path), for_training=False)
        adapter, section = read_adapter_for(config, self.path)
        own = mapping.get("peft")
        if own:  # what PEFT does not keep
            section = {**section, "train": own.get("train", section["train"])}
        sizes = [len(tensor) for row, tensor in adapter.whole if row.ours == ("token_embedding/embeddings",)]
        return with_section(config, section, **({"vocab_size": sizes[0]} if sizes else {})), adapter

    def _mapping(self) -> dict[str, Any]:
        """Its config without the shape of the adapter; of a stranger's file only what a model is."""
        mapping = to_mapping(self.base.config())
        ours = self._ours.get("config")
        if isinstance(ours, dict):
            mapping |= {key: ours[key] for key in _SECTIONS if key in ours}
            mapping["model"] = {**mapping["model"], "source": self.base.source}
            return mapping
        mapping["name"] = self.path.resolve().name or mapping["name"]
        mapping["model"] = {**mapping["model"], **self._head(mapping["model"])}
        return mapping

    def _head(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """Keys of a model for the head that PEFT says it was trained for, where the base has another."""
        head = _HEADS.get(str(read_adapter_config(self.path).get("task_type")))
        if head is None or model.get("head") == head or model["type"] not in ("encoder", "decoder"):
            return {}
        shapes = SafetensorsFiles(self.path, WEIGHTS_FILE).shapes
        found = [shape for name, shape in shapes.items() if name.endswith(_HEAD_WEIGHTS)]
        if not found:
            raise ConvertError(
                f"{self.path} was trained for {head.replace('_', ' ')}, and holds no layer for it, nor does its base;"
                " save the adapter with it (PEFT's modules_to_save)"
            )
        keys: dict[str, Any] = {"head": head, "new_head": True}
        if head != "span":
            keys["num_classes"] = found[0][0]
        if model["type"] == "decoder":
            return {**keys, "pooling": "last", "tie_embeddings": True}
        pooled = head == "sequence_classification" and model["pooler"] == "none"
        checkpoint = getattr(self.base, "checkpoint", None)  # a run's is as our own new ones are
        heads = None if checkpoint is None else checkpoint.family.heads
        activation = "tanh" if heads is None else heads.pooler_activation
        return {**keys, **({"pooler": activation} if pooled else {})}

    @cached_property
    def _ours(self) -> dict[str, Any]:
        """What `LanguageModel.save` adds to PEFT's files."""
        try:
            content = read_json(self.path / OURS)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ConvertError(
                f"{self.path / OURS} is not a JSON file ({error}); download it again"
            ) from None
        return content if isinstance(content, dict) else {}


def described(config: ExperimentConfig, model: Any) -> dict[str, Any]:
    """What is kept beside PEFT's files: the sections that say what a model is, and a sample of its base."""
    mapping = to_mapping(config)
    return {"config": {key: mapping[key] for key in _SECTIONS}, "base": sample_of(model)}


def named_base(path: Path) -> str:
    """Where the base of an adapter is, as its files say: a folder or handle, or a name on the hub.

    Raises:
        ConfigError: when they say nothing.
        ConvertError: when they are not understood.
    """
    base = read_adapter_config(path).get("base_model_name_or_path")
    mend = f'give both: tfllm.load(BASE, adapter="{path}")'
    if not isinstance(base, str) or not base:
        problem = Problem(str(path / CONFIG_FILE), Problem.ABSENT, "names no base", mend)
        raise ConfigError([problem], "the model")
    if "://" in base or Path(base).expanduser().exists():
        return base
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base):
        return f"hf://{base}"
    problem = Problem(f"{path / CONFIG_FILE}: base_model_name_or_path", base, "is not there", mend)
    raise ConfigError([problem], "the model")
