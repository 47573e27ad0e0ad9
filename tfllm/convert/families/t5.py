"""T5 and T5 1.1 (Raffel et al. 2020), FLAN-T5 (Chung et al. 2022), mT5 (Xue et al. 2021)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from tfllm.convert.config_reader import ConfigReader
from tfllm.convert.config_table import Always, Arguments, Key, TrainingOnly
from tfllm.convert.encoder_decoder_kind import ENCODER_DECODER, GENERATION_KEYS, Again, Follows, StartToken
from tfllm.convert.family import Family
from tfllm.convert.tensors import Tensors
from tfllm.convert.weight_table import AS_IS, Row, linear, rms_norm

_ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "output"}
_PLAIN, _GATED = {"wi": "up", "wo": "down"}, {"wi_0": "gate", "wi_1": "up", "wo": "down"}
_EMBEDDING, _OUTPUT = "shared.weight", "lm_head.weight"
# What `feed_forward_proj` says: our activation, and transformers' `dense_act_fn` and `is_gated_act`.
_FEED_FORWARD = {
    "relu": ("relu", "relu", False),
    "gated-gelu": ("geglu", "gelu_new", True),
    "gated-silu": ("swiglu", "silu", True),
    "gelu": ("gelu", "gelu", False),
    "gelu_new": ("gelu_tanh", "gelu_new", False),
    "silu": ("silu", "silu", False),
}


def _rows(arguments: Arguments) -> list[Row]:
    tied = (_OUTPUT,) if arguments["tie_embeddings"] else ()
    copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", *tied)
    rows = [Row(_EMBEDDING, ("token_embedding/embeddings",), AS_IS, copies=copies)]
    for stack, branches in (
        ("encoder", {"SelfAttention": "attention"}),
        ("decoder", {"SelfAttention": "attention", "EncDecAttention": "cross_attention"}),
    ):
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        rows.append(Row(bias, (f"{stack}/relative_bias/embeddings",), AS_IS))
        for index in range(arguments[f"num_{stack}_layers"]):
            rows += _block(
                f"{stack}.block.{index}", f"{stack}/block_{index:02d}", branches, arguments["activation"]
            )
        rows.append(rms_norm(f"{stack}.final_layer_norm", f"{stack}/final_norm"))
    if not arguments["tie_embeddings"]:
        rows += linear("lm_head", "output_projection", bias=False)
    return rows


def _block(theirs: str, ours: str, branches: dict[str, str], activation: str) -> list[Row]:
    rows: list[Row] = []
    for number, (name, branch) in enumerate(branches.items()):
        rows.append(rms_norm(f"{theirs}.layer.{number}.layer_norm", f"{ours}/{branch}_norm"))
        for letter, part in _ATTENTION.items():
            rows += linear(f"{theirs}.layer.{number}.{name}.{letter}", f"{ours}/{branch}/{part}", bias=False)
    last = f"{theirs}.layer.{len(branches)}"
    rows.append(rms_norm(f"{last}.layer_norm", f"{ours}/feed_forward_norm"))
    for name, part in (_GATED if activation in ("geglu", "swiglu") else _PLAIN).items():
        rows += linear(f"{last}.DenseReluDense.{name}", f"{ours}/feed_forward/{part}", bias=False)
    return rows


@dataclasses.dataclass(frozen=True)
class _FeedForward:
    """The activation, which three keys say; a `ConfigRow`."""

    default: str

    def read(self, config: ConfigReader, arguments: Arguments) -> Arguments:
        """See `ConfigRow`."""
        del arguments
        word = config.take("feed_forward_proj", str, self.default)
        if word not in _FEED_FORWARD:
            raise config.refuse("feed_forward_proj", word, f"{', '.join(_FEED_FORWARD)} are")
        ours, function, gated = _FEED_FORWARD[word]
        for key, kind, value in (("dense_act_fn", str, function), ("is_gated_act", bool, gated)):
            said = config.take(key, kind, value)
            if said != value:
                raise config.refuse(key, said, f"feed_forward_proj={word!r} goes with {value!r}")
        return {"activation": ours}

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """See `ConfigRow`."""
        words = {ours: word for word, (ours, _, _) in _FEED_FORWARD.items()}
        word = words.get(arguments["activation"])
        return {} if word is None else {"feed_forward_proj": word}


@dataclasses.dataclass(frozen=True)
class _Output:
    """Whether the output layer is the embedding, and what comes before it is scaled; a `ConfigRow`.

    In transformers 4 `tie_word_embeddings` says both. transformers 5 writes it as true whatever the model is, has
    `scale_decoder_outputs` for the scale, and ties if the file has no output layer, see `_tied_unless_held`.
    """

    def read(self, config: ConfigReader, arguments: Arguments) -> Arguments:
        """See `ConfigRow`."""
        del arguments
        tied = config.take("tie_word_embeddings", bool, True)
        scaled = config.take("scale_decoder_outputs", bool, tied)
        if scaled and not tied:
            raise config.refuse(
                "scale_decoder_outputs", scaled, "with tie_word_embeddings=False only False is"
            )
        return {"tie_embeddings": tied, "scale_logits": scaled}

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """See `ConfigRow`."""
        return {
            "tie_word_embeddings": arguments["tie_embeddings"],
            "scale_decoder_outputs": arguments["scale_logits"],
        }


def _tied_unless_held(arguments: Arguments, open_tensors: Callable[[], Tensors]) -> Arguments:
    """Where no scale shows the config to be of a tied model, the output layer decides: is it in the file?"""
    if arguments["scale_logits"] or not arguments["tie_embeddings"]:
        return arguments
    tensors = open_tensors()
    if _OUTPUT not in tensors.shapes or _EMBEDDING not in tensors.shapes:
        return arguments
    return {
        **arguments,
        "tie_embeddings": np.array_equal(tensors.read(_OUTPUT), tensors.read(_EMBEDDING)),
    }


def _keys(activation: str, output: tuple[Any, ...], **defaults: int) -> tuple[Any, ...]:
    return (
        Key("vocab_size", "vocab_size", default=defaults["vocab_size"]),
        Key("d_model", "hidden_dim", default=512),
        Key("d_kv", "head_dim", default=64),
        Key("d_ff", "intermediate_dim", default=defaults["d_ff"]),
        Key("num_layers", "num_encoder_layers", default=defaults["num_layers"]),
        Follows("num_decoder_layers", "num_decoder_layers", "num_encoder_layers"),
        Key("num_heads", "num_heads", default=defaults["num_heads"]),
        Again("hidden_size", "hidden_dim"),
        Again("head_dim", "head_dim"),
        Again("num_hidden_layers", "num_encoder_layers"),
        Again("num_attention_heads", "num_heads"),
        Always("positions", "relative"),
        Key("relative_attention_num_buckets", "relative_num_buckets", default=32),
        Key("relative_attention_max_distance", "relative_max_distance", default=128),
        Always("norm", "rms_norm"),
        Key("layer_norm_epsilon", "norm_epsilon", float, 1e-6),
        Always("use_bias", False),
        Always("attention_scale", 1.0),
        _FeedForward(activation),
        *output,
        StartToken(default=0, or_key="pad_token_id"),
        TrainingOnly("dropout_rate"),
    )


_IGNORED = ("classifier_dropout", "initializer_factor", "n_positions", "output_past", *GENERATION_KEYS)
# Files that TensorFlow's T5 became hold a bias for the attention to the encoder, which has none.
_BUFFERS = (".EncDecAttention.relative_attention_bias.weight",)

T5 = Family(
    model_type="t5",
    architecture="T5ForConditionalGeneration",
    prefix="",
    rows=_rows,
    keys=_keys("relu", (_Output(),), vocab_size=32128, d_ff=2048, num_layers=6, num_heads=8),
    buffers=_BUFFERS,
    ignored=_IGNORED,
    completed=_tied_unless_held,
    kind=ENCODER_DECODER,
)
MT5 = Family(
    model_type="mt5",
    architecture="MT5ForConditionalGeneration",
    prefix="",
    rows=_rows,
    keys=_keys(
        "gated-gelu",
        # Never scaled: no published mT5 is tied.
        (Key("tie_word_embeddings", "tie_embeddings", bool, True), Always("scale_logits", False)),
        vocab_size=250112,
        d_ff=1024,
        num_layers=8,
        num_heads=6,
    ),
    buffers=_BUFFERS,
    ignored=_IGNORED,
    completed=_tied_unless_held,
    kind=ENCODER_DECODER,
)
