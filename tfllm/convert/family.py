"""A family of checkpoints: a table of config keys, and one of weights."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from tfllm.convert.config_reader import ConfigReader
from tfllm.convert.config_table import Arguments, ConfigRow
from tfllm.convert.errors import ConvertError
from tfllm.convert.weight_table import Row
from tfllm.models.decoder import Decoder, default_intermediate_dim

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
# Arguments that say how a model is trained, not what it computes.
_TRAINING = ("attention_block_size", "dropout", "initializer_range", "name", "remat")


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
        ignored: Further config keys that say nothing about what the model computes.
    """

    model_type: str
    architecture: str
    keys: Sequence[ConfigRow]
    rows: Callable[[Arguments], list[Row]]
    prefix: str
    buffers: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def read_config(self, config: ConfigReader) -> Arguments:
        """The arguments of our model, each said explicitly; what nobody reads stays in `config.unread()`.

        Raises:
            ConvertError: when a key is missing, malformed, or has a value that is not implemented.
        """
        config.ignore(*_ABOUT, *self.ignored)
        arguments: Arguments = {}
        for row in self.keys:
            arguments.update(row.read(config, arguments))
        heads, kv_heads = arguments["num_heads"], arguments.get("num_kv_heads")
        if kv_heads and heads % kv_heads:
            raise ConvertError(
                f"{config.where}: {heads} attention heads must be divisible by {kv_heads} of keys"
            )
        return resolved(arguments)

    def write_config(self, arguments: Arguments) -> dict[str, Any]:
        """The config of a model.

        Raises:
            ConvertError: when the family cannot say one of the arguments.
        """
        arguments = resolved(arguments)
        written: dict[str, Any] = {"model_type": self.model_type, "architectures": [self.architecture]}
        for row in self.keys:
            written.update(row.write(arguments))
        again = self.read_config(ConfigReader(written, "the config written"))
        for name, value in arguments.items():
            if again[name] != value:
                raise ConvertError(
                    f"model.{name}={value!r} cannot be said in a checkpoint of type {self.model_type},"
                    f" which has {again[name]!r}; convert to another type"
                )
        return written


def resolved(arguments: Arguments) -> Arguments:
    """Arguments of a `Decoder` with every default filled in, and without those that concern training only."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(Decoder.__init__).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    full = {name: arguments.get(name, default) for name, default in defaults.items() if name not in _TRAINING}
    heads, head_dim = full["num_heads"], full["head_dim"] or full["hidden_dim"] // full["num_heads"]
    rotary, window = full["positions"] == "rotary", full["sliding_window"]
    sliding = range(full["num_layers"]) if full["sliding_layers"] is None else full["sliding_layers"]
    sliding = sorted(sliding) if window else []
    by_default = {
        "num_kv_heads": heads,
        "head_dim": head_dim,
        "intermediate_dim": default_intermediate_dim(full["hidden_dim"], full["activation"]),
        "rotary_dim": head_dim,
        "qkv_bias": full["use_bias"],
        "attention_output_bias": full["use_bias"],
        "feed_forward_bias": full["use_bias"],
        "attention_scale": head_dim**-0.5,
    }
    full.update({name: value for name, value in by_default.items() if full[name] is None})
    # What has no effect beside other arguments is brought to one form.
    full["use_bias"] = full["use_bias"] and full["norm"] == "layer_norm"
    full["sliding_layers"] = tuple(sliding) or None
    full["sliding_window"] = window if sliding else None
    if not rotary:
        full.update(rotary_dim=None, rope_theta=None, rope_scaling=None)
    same = full["rope_local_theta"] == full["rope_theta"] and full["rope_scaling"] is None
    if not sliding or same:
        full["rope_local_theta"] = None
    return full
