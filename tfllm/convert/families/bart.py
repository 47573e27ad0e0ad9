"""BART (Lewis et al. 2020)."""

from __future__ import annotations

from typing import Any

from tfllm.convert.config_table import Always, Arguments, Constant, Key, TrainingOnly
from tfllm.convert.encoder_decoder_kind import ENCODER_DECODER, GENERATION_KEYS, Again, StartToken
from tfllm.convert.family import Family
from tfllm.convert.weight_table import AS_IS, ONE_ROW, Row, layer_norm, linear

_ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "output"}
_BRANCHES = {"self_attn": "attention", "encoder_attn": "cross_attention"}
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "swish": "silu",
    "silu": "silu",
}


def rows(arguments: Arguments) -> list[Row]:
    """The table of weights of BART and Marian."""
    tied = ("lm_head.weight",) if arguments["tie_embeddings"] else ()
    encoder, decoder = (f"model.{stack}.embed_tokens.weight" for stack in ("encoder", "decoder"))
    if arguments["source_vocab_size"] is None:
        table = [
            Row(
                "model.shared.weight",
                ("token_embedding/embeddings",),
                AS_IS,
                copies=(encoder, decoder, *tied),
            )
        ]
    else:
        table = [
            Row(decoder, ("token_embedding/embeddings",), AS_IS, copies=tied),
            Row(encoder, ("source_embedding/embeddings",), AS_IS),
        ]
    for stack in ("encoder", "decoder"):
        theirs = f"model.{stack}"
        if arguments["positions"] == "learned":
            path = f"{stack}/position_embedding/embeddings"
            table.append(Row(f"{theirs}.embed_positions.weight", (path,), AS_IS))
        if arguments["embedding_norm"]:
            table += layer_norm(f"{theirs}.layernorm_embedding", f"{stack}/embedding_norm")
        for index in range(arguments[f"num_{stack}_layers"]):
            table += _block(f"{theirs}.layers.{index}", f"{stack}/block_{index:02d}", stack == "decoder")
    if not arguments["tie_embeddings"]:
        table += linear("lm_head", "output_projection", bias=False)
    # Files of the bare model have none; it is zero then.
    table.append(Row("final_logits_bias", ("logits_bias",), ONE_ROW, optional=True))
    return table


def _block(theirs: str, ours: str, reads_encoder: bool) -> list[Row]:
    table: list[Row] = []
    for name, branch in list(_BRANCHES.items())[: 2 if reads_encoder else 1]:
        table += layer_norm(f"{theirs}.{name}_layer_norm", f"{ours}/{branch}_norm")
        for projection, part in _ATTENTION.items():
            table += linear(f"{theirs}.{name}.{projection}", f"{ours}/{branch}/{part}", bias=True)
    table += layer_norm(f"{theirs}.final_layer_norm", f"{ours}/feed_forward_norm")
    table += linear(f"{theirs}.fc1", f"{ours}/feed_forward/up", bias=True)
    table += linear(f"{theirs}.fc2", f"{ours}/feed_forward/down", bias=True)
    return table


def sizes(activation: str) -> tuple[Any, ...]:
    """The keys that BART and Marian share, but for those of the vocabularies."""
    return (
        Key("d_model", "hidden_dim", default=1024),
        Key("encoder_layers", "num_encoder_layers", default=12),
        Key("decoder_layers", "num_decoder_layers", default=12),
        Key("encoder_attention_heads", "num_heads", default=16),
        Key("decoder_attention_heads", "decoder_num_heads", default=16),
        Key("encoder_ffn_dim", "intermediate_dim", default=4096),
        Key("decoder_ffn_dim", "decoder_intermediate_dim", default=4096),
        Again("hidden_size", "hidden_dim"),
        Again("num_hidden_layers", "num_encoder_layers"),
        Again("num_attention_heads", "num_heads"),
        Key("max_position_embeddings", "max_seq_len", default=1024),
        Always("norm", "layer_norm"),
        Always("norm_placement", "post"),
        Always("norm_epsilon", 1e-5),
        Always("final_norm", False),
        Always("use_bias", True),
        Always("logits_bias", True),
        Key("activation_function", "activation", str, activation, words=_ACTIVATIONS),
        Key("scale_embedding", "scale_embeddings", bool, False),
        # Said by older files; transformers has one way for each, and does not look.
        Constant("normalize_before", False, written=False),
        Constant("add_final_layer_norm", False, written=False),
        Constant("add_bias_logits", False, written=False),
        TrainingOnly("dropout"),
        TrainingOnly("attention_dropout"),
        TrainingOnly("activation_dropout"),
        TrainingOnly("encoder_layerdrop"),
        TrainingOnly("decoder_layerdrop"),
    )


IGNORED = (
    "_num_labels",
    "classif_dropout",
    "classifier_dropout",
    "gradient_checkpointing",
    "init_std",
    "num_labels",
    "output_past",
    "save_step",
    *GENERATION_KEYS,
)

BART = Family(
    model_type="bart",
    architecture="BartForConditionalGeneration",
    prefix="model.",
    rows=rows,
    keys=(
        Key("vocab_size", "vocab_size", default=50265),
        *sizes("gelu"),
        Always("positions", "learned"),
        Always("position_offset", 2),
        Always("embedding_norm", True),
        # transformers 4 unties the output layer by it, transformers 5 three embeddings; no published BART has it.
        Constant("tie_word_embeddings", True),
        Constant("normalize_embedding", True, written=False),
        Constant("static_position_embeddings", False, written=False),
        Constant("extra_pos_embeddings", 2, written=False),
        StartToken(default=2),
    ),
    buffers=("encoder.version", "decoder.version"),
    ignored=IGNORED,
    kind=ENCODER_DECODER,
)
