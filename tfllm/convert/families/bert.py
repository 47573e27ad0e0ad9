"""BERT (Devlin et al. 2019), as which MiniLM and many models of sentences are stored, and RoBERTa (Liu et al. 2019)."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfllm.convert.config_reader import ConfigReader
from tfllm.convert.config_table import Always, Arguments, Constant, HeadDim, Key, TrainingOnly
from tfllm.convert.encoder_heads import EncoderHeads
from tfllm.convert.encoder_kind import ENCODER
from tfllm.convert.family import Family
from tfllm.convert.weight_table import AS_IS, Row, embedding, linear

# The names of transformers' activations, ours beside them.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def norm_rows(theirs: str, ours: str) -> list[Row]:
    """The rows of a LayerNorm, whose weights TensorFlow's BERT called gamma and beta."""
    return [
        Row(f"{theirs}.weight", (f"{ours}/scale",), AS_IS, copies=(f"{theirs}.gamma",)),
        Row(f"{theirs}.bias", (f"{ours}/bias",), AS_IS, copies=(f"{theirs}.beta",)),
    ]


def _encoder_rows(arguments: Arguments, prefix: str, output_layer: str) -> list[Row]:
    """The table of the weights below the heads, in BERT's words.

    Args:
        arguments: Of the model.
        prefix: What every name begins with.
        output_layer: What the output layer is called, which may be the embedding.
    """
    embeddings = f"{prefix}embeddings"
    tied = arguments["tie_embeddings"]
    rows = [
        embedding(f"{embeddings}.word_embeddings.weight", tied_to=output_layer if tied else None),
        Row(f"{embeddings}.position_embeddings.weight", ("position_embedding/embeddings",), AS_IS),
        Row(f"{embeddings}.token_type_embeddings.weight", ("token_type_embedding/embeddings",), AS_IS),
        *norm_rows(f"{embeddings}.LayerNorm", "embedding_norm"),
    ]
    for index in range(arguments["num_layers"]):
        theirs, ours = f"{prefix}encoder.layer.{index}", f"block_{index:02d}"
        for name in ("query", "key", "value"):
            rows += linear(f"{theirs}.attention.self.{name}", f"{ours}/attention/{name}", bias=True)
        rows += [
            *linear(f"{theirs}.attention.output.dense", f"{ours}/attention/output", bias=True),
            *norm_rows(f"{theirs}.attention.output.LayerNorm", f"{ours}/attention_norm"),
            *linear(f"{theirs}.intermediate.dense", f"{ours}/feed_forward/up", bias=True),
            *linear(f"{theirs}.output.dense", f"{ours}/feed_forward/down", bias=True),
            *norm_rows(f"{theirs}.output.LayerNorm", f"{ours}/feed_forward_norm"),
        ]
    return rows


def _vocabulary_rows(arguments: Arguments, *, decoder: str, bias: str) -> list[Row]:
    """The output layer of a masked-LM head.

    Args:
        arguments: Of the model.
        decoder: Its name where it is not the embedding.
        bias: The name of the bias of its own that transformers 4 reads, and 5 reads where the layer is the embedding.
    """
    if arguments["tie_embeddings"]:
        return [Row(bias, ("masked_lm_head/bias",), AS_IS, copies=(f"{decoder}.bias",))]
    return [
        *linear(decoder, "masked_lm_head", bias=False),
        Row(f"{decoder}.bias", ("masked_lm_head/bias",), AS_IS, copies=(bias,)),
        Row(bias, ("masked_lm_head/bias",), AS_IS, written_only=True),
    ]


def classifier_rows(arguments: Arguments, name: str = "classifier") -> list[Row]:
    """The rows of a classification or span head.

    Args:
        arguments: Of the model.
        name: The classifier's.
    """
    if arguments["num_classes"] is None and arguments["head"] != "span":
        return []
    return linear("qa_outputs" if arguments["head"] == "span" else name, "classifier", bias=True)


def _bert_rows(arguments: Arguments) -> list[Row]:
    rows = _encoder_rows(arguments, "bert.", "cls.predictions.decoder.weight")
    if arguments["pooler"] != "none":
        rows += linear("bert.pooler.dense", "pooler/dense", bias=True)
    if arguments["head"] == "masked_lm":
        head = "cls.predictions"
        rows += linear(f"{head}.transform.dense", "masked_lm_head/transform", bias=True)
        rows += norm_rows(f"{head}.transform.LayerNorm", "masked_lm_head/norm")
        rows += _vocabulary_rows(arguments, decoder=f"{head}.decoder", bias=f"{head}.bias")
    if arguments["next_sentence_head"]:
        rows += linear("cls.seq_relationship", "next_sentence", bias=True)
    return rows + classifier_rows(arguments)


def _roberta_rows(arguments: Arguments) -> list[Row]:
    rows = _encoder_rows(arguments, "roberta.", "lm_head.decoder.weight")
    sentences = arguments["head"] == "sequence_classification"
    if arguments["pooler"] != "none":
        rows += linear("classifier.dense" if sentences else "roberta.pooler.dense", "pooler/dense", bias=True)
    if arguments["head"] == "masked_lm":
        rows += linear("lm_head.dense", "masked_lm_head/transform", bias=True)
        rows += norm_rows("lm_head.layer_norm", "masked_lm_head/norm")
        rows += _vocabulary_rows(arguments, decoder="lm_head.decoder", bias="lm_head.bias")
    return rows + classifier_rows(arguments, "classifier.out_proj" if sentences else "classifier")


class _PositionsAfterPadding:
    """RoBERTa's positions begin behind the id of padding, and its table holds that many rows more; a `ConfigRow`."""

    def read(self, config: ConfigReader, arguments: Arguments) -> Arguments:
        """See `ConfigRow`."""
        del arguments
        padding, size = config.take("pad_token_id", int, 1), config.size("max_position_embeddings", 512)
        if not 0 <= padding < size - 1:
            raise config.refuse(
                "pad_token_id", padding, f"it must leave some of max_position_embeddings={size}"
            )
        return {"position_offset": padding + 1, "max_seq_len": size - padding - 1}

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """See `ConfigRow`."""
        offset = arguments["position_offset"]
        return {"pad_token_id": offset - 1, "max_position_embeddings": offset + arguments["max_seq_len"]}


_SHAPE = (
    Key("hidden_size", "hidden_dim", default=768),
    Key("num_hidden_layers", "num_layers", default=12),
    Key("num_attention_heads", "num_heads", default=12),
    HeadDim(None),
    Key("intermediate_size", "intermediate_dim", default=3072),
    Key("type_vocab_size", "num_token_types", default=2),
    Key("layer_norm_eps", "norm_epsilon", float, 1e-12),
    Key("hidden_act", "activation", str, "gelu", words=ACTIVATIONS),
    Key("tie_word_embeddings", "tie_embeddings", bool, True),
    Constant("position_embedding_type", "absolute"),
    Constant("is_decoder", False),
    Constant("add_cross_attention", False),
    TrainingOnly("hidden_dropout_prob"),
    TrainingOnly("attention_probs_dropout_prob"),
    TrainingOnly("classifier_dropout"),
)
BUFFERS = (".position_ids", ".token_type_ids")
# Of Google's first configs; transformers reads none of them.
_IGNORED = (
    "directionality",
    "gradient_checkpointing",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
)

BERT = Family(
    model_type="bert",
    architecture="BertModel",
    prefix="bert.",
    rows=_bert_rows,
    keys=(
        Key("vocab_size", "vocab_size", default=30522),
        Key("max_position_embeddings", "max_seq_len", default=512),
        *_SHAPE,
    ),
    heads=EncoderHeads(
        name="Bert",
        tensors={
            "masked_lm": ["cls.predictions.transform.dense.weight"],
            "span": ["qa_outputs.weight"],
            "sequence_classification": ["classifier.weight", "bert.pooler.dense.weight"],
            "token_classification": ["classifier.weight"],
        },
        next_sentence="cls.seq_relationship.weight",
    ),
    buffers=BUFFERS,
    ignored=_IGNORED,
    kind=ENCODER,
)
_ROBERTA_HEADS = EncoderHeads(
    name="Roberta",
    tensors={
        "masked_lm": ["lm_head.dense.weight"],
        "span": ["qa_outputs.weight"],
        "sequence_classification": ["classifier.out_proj.weight"],
        "token_classification": ["classifier.weight"],
    },
    own_pooler=True,
)
ROBERTA = Family(
    model_type="roberta",
    architecture="RobertaModel",
    prefix="roberta.",
    rows=_roberta_rows,
    keys=(
        Key("vocab_size", "vocab_size", default=50265),
        _PositionsAfterPadding(),
        *_SHAPE,
        Always("head_activation", "gelu"),
    ),
    heads=_ROBERTA_HEADS,
    # A pooler beside a classifier that has its own is read by nobody.
    buffers=(*BUFFERS, "pooler.dense.weight", "pooler.dense.bias"),
    kind=ENCODER,
)
# Trained on a hundred languages (Conneau et al. 2020), and otherwise the same.
XLM_ROBERTA = dataclasses.replace(
    ROBERTA,
    model_type="xlm-roberta",
    architecture="XLMRobertaModel",
    keys=(Key("vocab_size", "vocab_size", default=30522), *ROBERTA.keys[1:]),
    heads=dataclasses.replace(_ROBERTA_HEADS, name="XLMRoberta"),
)
