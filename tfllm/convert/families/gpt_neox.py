"""GPT-NeoX (Black et al. 2022) and Pythia (Biderman et al. 2023)."""

from tfllm.convert.classes import DecoderHead, classifier_rows
from tfllm.convert.config_table import Always, Arguments, Constant, HeadDim, Key, TrainingOnly
from tfllm.convert.family import Family
from tfllm.convert.rope_keys import Rope
from tfllm.convert.weight_table import Row, by_heads, embedding, layer_norm, linear


def _rows(arguments: Arguments) -> list[Row]:
    tied = arguments["tie_embeddings"]
    rows = [
        embedding("gpt_neox.embed_in.weight", tied_to="embed_out.weight" if tied else None),
        *layer_norm("gpt_neox.final_layer_norm", "final_norm"),
    ]
    layout, bias = by_heads(arguments["num_heads"]), arguments["qkv_bias"]
    for index in range(arguments["num_layers"]):
        theirs, ours = f"gpt_neox.layers.{index}", f"block_{index:02d}"
        fused = [f"{ours}/attention/{name}" for name in ("query", "key", "value")]
        attention = f"{theirs}.attention.query_key_value"
        rows += [
            *layer_norm(f"{theirs}.input_layernorm", f"{ours}/attention_norm"),
            Row(f"{attention}.weight", tuple(f"{path}/kernel" for path in fused), layout),
            *([Row(f"{attention}.bias", tuple(f"{path}/bias" for path in fused), layout)] if bias else []),
            *linear(f"{theirs}.attention.dense", f"{ours}/attention/output", bias=bias),
            *layer_norm(f"{theirs}.post_attention_layernorm", f"{ours}/feed_forward_norm"),
            *linear(f"{theirs}.mlp.dense_h_to_4h", f"{ours}/feed_forward/up", bias=True),
            *linear(f"{theirs}.mlp.dense_4h_to_h", f"{ours}/feed_forward/down", bias=True),
        ]
    if not tied:
        rows += linear("embed_out", "output_projection", bias=False)
    return rows + classifier_rows(arguments)


GPT_NEOX = Family(
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    prefix="gpt_neox.",
    rows=_rows,
    keys=(
        DecoderHead("GPTNeoXForSequenceClassification"),
        Key("vocab_size", "vocab_size"),
        Key("hidden_size", "hidden_dim"),
        Key("num_hidden_layers", "num_layers"),
        Key("num_attention_heads", "num_heads"),
        HeadDim(None),
        Key("intermediate_size", "intermediate_dim"),
        Key("max_position_embeddings", "max_seq_len", default=2048),
        Always("norm", "layer_norm"),
        Always("use_bias", True),
        Key("layer_norm_eps", "norm_epsilon", float, 1e-5),
        Key(
            "hidden_act",
            "activation",
            str,
            "gelu",
            words={
                "gelu": "gelu",
                "gelu_new": "gelu_tanh",
                "gelu_fast": "gelu_tanh",
                "gelu_pytorch_tanh": "gelu_tanh",
                "relu": "relu",
            },
        ),
        Key("tie_word_embeddings", "tie_embeddings", bool, False),
        Key("use_parallel_residual", "parallel_branches", bool, True),
        Key("attention_bias", "qkv_bias", bool, True),
        Key("attention_bias", "attention_output_bias", bool, True),
        Rope(theta="rotary_emb_base", share="rotary_pct", default_share=0.25),
        Constant("is_decoder", False),
        TrainingOnly("attention_dropout"),
        TrainingOnly("hidden_dropout"),
    ),
    buffers=(".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"),
    ignored=("classifier_dropout",),
)
