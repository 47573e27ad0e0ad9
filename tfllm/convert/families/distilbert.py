"""DistilBERT (Sanh et al. 2019)."""

from __future__ import annotations

from typing import Any

from tfllm.convert.config_reader import ConfigReader
from tfllm.convert.config_table import Always, Arguments, HeadDim, Key, TrainingOnly
from tfllm.convert.encoder_heads import EncoderHeads
from tfllm.convert.encoder_kind import ENCODER
from tfllm.convert.families.bert import ACTIVATIONS, BUFFERS, classifier_rows, norm_rows
from tfllm.convert.family import Family
from tfllm.convert.weight_table import AS_IS, Row, embedding, linear


def _rows(arguments: Arguments) -> list[Row]:
    embeddings = "distilbert.embeddings"
    tied_to = "vocab_projector.weight" if arguments["tie_embeddings"] else None
    rows = [
        embedding(f"{embeddings}.word_embeddings.weight", tied_to=tied_to),
        Row(f"{embeddings}.position_embeddings.weight", ("position_embedding/embeddings",), AS_IS),
        *norm_rows(f"{embeddings}.LayerNorm", "embedding_norm"),
    ]
    for index in range(arguments["num_layers"]):
        theirs, ours = f"distilbert.transformer.layer.{index}", f"block_{index:02d}"
        for name in ("query", "key", "value"):
            rows += linear(f"{theirs}.attention.{name[0]}_lin", f"{ours}/attention/{name}", bias=True)
        rows += [
            *linear(f"{theirs}.attention.out_lin", f"{ours}/attention/output", bias=True),
            *norm_rows(f"{theirs}.sa_layer_norm", f"{ours}/attention_norm"),
            *linear(f"{theirs}.ffn.lin1", f"{ours}/feed_forward/up", bias=True),
            *linear(f"{theirs}.ffn.lin2", f"{ours}/feed_forward/down", bias=True),
            *norm_rows(f"{theirs}.output_layer_norm", f"{ours}/feed_forward_norm"),
        ]
    if arguments["pooler"] != "none":
        rows += linear("pre_classifier", "pooler/dense", bias=True)
    if arguments["head"] == "masked_lm":
        rows += linear("vocab_transform", "masked_lm_head/transform", bias=True)
        rows += norm_rows("vocab_layer_norm", "masked_lm_head/norm")
        own = linear("vocab_projector", "masked_lm_head", bias=True)
        rows += own[1:] if arguments["tie_embeddings"] else own
    return rows + classifier_rows(arguments)


class _Sinusoids:
    """Whether the positions were sinusoids to begin with; they are stored as weights either way. A `ConfigRow`."""

    def read(self, config: ConfigReader, arguments: Arguments) -> Arguments:
        """See `ConfigRow`."""
        del arguments
        if config.take("sinusoidal_pos_embds", bool, False):
            config.notes.append(
                "sinusoidal_pos_embds=True concerns training; positions are weights here, and are trained"
            )
        return {}

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """See `ConfigRow`."""
        del arguments
        return {"sinusoidal_pos_embds": False}


DISTILBERT = Family(
    model_type="distilbert",
    architecture="DistilBertModel",
    prefix="distilbert.",
    rows=_rows,
    keys=(
        Key("vocab_size", "vocab_size", default=30522),
        Key("dim", "hidden_dim", default=768),
        Key("n_layers", "num_layers", default=6),
        Key("n_heads", "num_heads", default=12),
        HeadDim(None),
        Key("hidden_dim", "intermediate_dim", default=3072),
        Key("max_position_embeddings", "max_seq_len", default=512),
        Key("activation", "activation", str, "gelu", words=ACTIVATIONS),
        Key("tie_word_embeddings", "tie_embeddings", bool, True),
        _Sinusoids(),
        Always("num_token_types", 0),
        Always("norm_epsilon", 1e-12),
        TrainingOnly("dropout"),
        TrainingOnly("attention_dropout"),
        TrainingOnly("qa_dropout"),
        TrainingOnly("seq_classif_dropout"),
    ),
    heads=EncoderHeads(
        name="DistilBert",
        tensors={
            "masked_lm": ["vocab_transform.weight"],
            "span": ["qa_outputs.weight"],
            "sequence_classification": ["pre_classifier.weight"],
            "token_classification": ["classifier.weight"],
        },
        pooler="pre_classifier.weight",
        pooler_activation="relu",
    ),
    buffers=BUFFERS,
    ignored=("tie_weights_",),
    kind=ENCODER,
)
