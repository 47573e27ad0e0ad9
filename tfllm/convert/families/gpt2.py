"""GPT-2 (Radford et al. 2019)."""

from tfllm.convert.classes import DecoderHead, classifier_rows
from tfllm.convert.config_table import Always, Arguments, Constant, HeadDim, Key, TrainingOnly
from tfllm.convert.family import Family
from tfllm.convert.weight_table import AS_IS, SIDE_BY_SIDE, Row, embedding, layer_norm, linear


def _rows(arguments: Arguments) -> list[Row]:
    tied = arguments["tie_embeddings"]
    rows = [
        embedding("transformer.wte.weight", tied_to="lm_head.weight" if tied else None),
        Row("transformer.wpe.weight", ("position_embedding/embeddings",), AS_IS),
        *layer_norm("transformer.ln_f", "final_norm"),
    ]
    for index in range(arguments["num_layers"]):
        theirs, ours = f"transformer.h.{index}", f"block_{index:02d}"
        fused = [f"{ours}/attention/{name}" for name in ("query", "key", "value")]
        rows += [
            *layer_norm(f"{theirs}.ln_1", f"{ours}/attention_norm"),
            Row(f"{theirs}.attn.c_attn.weight", tuple(f"{path}/kernel" for path in fused), SIDE_BY_SIDE),
            Row(f"{theirs}.attn.c_attn.bias", tuple(f"{path}/bias" for path in fused), SIDE_BY_SIDE),
            # GPT-2's "Conv1D" keeps [inputs, outputs], as we do.
            *linear(f"{theirs}.attn.c_proj", f"{ours}/attention/output", bias=True, layout=AS_IS),
            *layer_norm(f"{theirs}.ln_2", f"{ours}/feed_forward_norm"),
            *linear(f"{theirs}.mlp.c_fc", f"{ours}/feed_forward/up", bias=True, layout=AS_IS),
            *linear(f"{theirs}.mlp.c_proj", f"{ours}/feed_forward/down", bias=True, layout=AS_IS),
        ]
    if not tied:
        rows += linear("lm_head", "output_projection", bias=False)
    return rows + classifier_rows(arguments)


GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    prefix="transformer.",
    rows=_rows,
    keys=(
        DecoderHead("GPT2ForSequenceClassification"),
        Key("vocab_size", "vocab_size", default=50257),
        Key("n_embd", "hidden_dim", default=768),
        Key("n_layer", "num_layers", default=12),
        Key("n_head", "num_heads", default=12),
        Key("n_inner", "intermediate_dim", default=None),
        Key("n_positions", "max_seq_len", default=1024),
        HeadDim(None),
        Always("norm", "layer_norm"),
        Always("use_bias", True),
        Always("positions", "learned"),
        Key("layer_norm_epsilon", "norm_epsilon", float, 1e-5),
        Key(
            "activation_function",
            "activation",
            str,
            "gelu_new",
            words={
                "gelu_new": "gelu_tanh",
                "gelu_pytorch_tanh": "gelu_tanh",
                "gelu_fast": "gelu_tanh",
                "gelu": "gelu",
                "relu": "relu",
            },
        ),
        Key("tie_word_embeddings", "tie_embeddings", bool, True),
        Constant("scale_attn_weights", True),
        Constant("scale_attn_by_inverse_layer_idx", False),
        Constant("add_cross_attention", False),
        TrainingOnly("resid_pdrop"),
        TrainingOnly("embd_pdrop"),
        TrainingOnly("attn_pdrop"),
    ),
    buffers=(".attn.bias", ".attn.masked_bias"),
    ignored=(
        "n_ctx",
        "reorder_and_upcast_attn",  # where float16 is multiplied; scores are float32 here anyway
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    ),
)
