"""A family of checkpoints: a table of config keys, and one of weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, Protocol

import numpy as np

from tfllm.convert.config_reader import ConfigReader
from tfllm.convert.config_table import Arguments, ConfigRow
from tfllm.convert.decoder_kind import DECODER
from tfllm.convert.errors import ConvertError
from tfllm.convert.model_kind import ModelKind
from tfllm.convert.tensors import Tensors
from tfllm.convert.weight_table import Row

# Said in config.json by every family, or by transformers itself, and of no concern to what a model computes.
# fmt: off
_ABOUT = (
    "_name_or_path", "_attn_implementation", "architectures", "attn_implementation", "auto_map",
    "bos_token_id", "cache_implementation", "chunk_size_feed_forward", "decoder_start_token_id", "dtype",
    "eos_token_id", "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "id2label",
    "initializer_range", "is_decoder", "is_encoder_decoder", "label2id", "model_type", "output_attentions",
    "output_hidden_states", "pad_token_id", "prefix", "problem_type", "pruned_heads", "return_dict",
    "sep_token_id", "task_specific_params", "tokenizer_class", "torch_dtype", "torchscript",
    "transformers_version", "transformers.js_config", "unk_token_id", "unsloth_fixed", "unsloth_version",
    "use_bfloat16", "use_cache",
)
# fmt: on


class Heads(Protocol):
    """What tells a family's classes apart, whose config is the same: which heads stand on the model."""

    def read(self, config: ConfigReader, names: Set[str]) -> Arguments:
        """Arguments of our model, from the config and the names of the tensors."""

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """Keys of the config, `architectures` among them."""

    def bare(self, arguments: Arguments) -> bool:
        """Whether there is none, so that names have no prefix."""


@dataclasses.dataclass(frozen=True)
class Family:
    """What is called by one `model_type`.

    Args:
        model_type: As `config.json` names it.
        architecture: transformers' class for it.
        keys: The table of config keys, in the order in which they are read.
        rows: Makes the table of weights of a model from its arguments.
        prefix: What stands before the names of all weights but the output layer's, and may be left out.
        buffers: Ends of names of tensors that old files hold and that are not weights.
        heads: Which heads there are, where that differs.
        computed: Tensors that files may hold though they follow from the arguments, and what they must be.
        ignored: Further config keys that say nothing about what the model computes.
        completed: Arguments as the tensors of a file show them, where its config leaves something open.
        kind: Which of our models it is read into.
    """

    model_type: str
    architecture: str
    keys: Sequence[ConfigRow]
    rows: Callable[[Arguments], list[Row]]
    prefix: str
    buffers: tuple[str, ...] = ()
    heads: Heads | None = None
    computed: Mapping[str, Callable[[Arguments], np.ndarray]] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    completed: Callable[[Arguments, Callable[[], Tensors]], Arguments] = lambda arguments, open_tensors: (
        arguments
    )
    kind: ModelKind = DECODER

    def read_config(self, config: ConfigReader, names: Set[str] = frozenset()) -> Arguments:
        """The arguments of our model, each said explicitly; what nobody reads stays in `config.unread()`.

        Args:
            config: The config.
            names: Of the checkpoint's tensors, where the family has `heads`.

        Raises:
            ConvertError: when a key is missing, malformed, or has a value that is not implemented.
        """
        config.ignore(*_ABOUT, *self.ignored)
        arguments: Arguments = {}
        for row in self.keys:
            arguments.update(row.read(config, arguments))
        if self.heads is not None:
            arguments.update(self.heads.read(config, names))
        wrong = self.kind.check(arguments)
        if wrong is not None:
            raise ConvertError(f"{config.where}: {wrong}")
        return self.kind.resolved(arguments)

    def write_config(self, arguments: Arguments) -> dict[str, Any]:
        """The config of a model.

        Raises:
            ConvertError: when the family cannot say one of the arguments.
        """
        arguments = self.kind.resolved(arguments)
        written: dict[str, Any] = {"model_type": self.model_type, "architectures": [self.architecture]}
        for row in self.keys:
            written.update(row.write(arguments))
        if self.heads is not None:
            written.update(self.heads.write(arguments))
        names = {row.theirs for row in self.rows(arguments)}
        again = self.read_config(ConfigReader(written, "the config written"), names)
        for name, value in arguments.items():
            if again[name] != value:
                raise ConvertError(
                    f"model.{name}={value!r} cannot be said in a checkpoint of type {self.model_type},"
                    f" which has {again[name]!r}; convert to another type"
                )
        return written
