"""What the families of encoders have in common."""

from __future__ import annotations

from tfllm.convert.config_table import Arguments
from tfllm.convert.model_kind import ModelKind, with_defaults, without_effect
from tfllm.layers.feed_forward import default_intermediate_dim
from tfllm.models.encoder import Encoder, wrong_settings


def _resolved(arguments: Arguments) -> Arguments:
    full = with_defaults(Encoder, arguments)
    by_default = {
        "num_kv_heads": full["num_heads"],
        "head_dim": full["hidden_dim"] // full["num_heads"],
        "intermediate_dim": default_intermediate_dim(full["hidden_dim"], full["activation"]),
        "head_activation": full["activation"],
    }
    full.update({name: value for name, value in by_default.items() if full[name] is None})
    # What has no effect beside other arguments is brought to one form.
    full.update(without_effect(full, full["head_dim"], layers=full["num_layers"]))
    if full["positions"] != "learned":
        full["position_offset"] = 0
    if full["positions"] != "relative":
        full.update(relative_num_buckets=None, relative_max_distance=None)
    if full["head"] != "masked_lm":
        full.update(head_activation=None, tie_embeddings=True)
    if full["class_names"] is not None:
        full["class_names"] = tuple(full["class_names"])
    return full


def _matrices(arguments: Arguments) -> list[tuple[str, int]]:
    width, heads, head_dim = arguments["hidden_dim"], arguments["num_heads"], arguments["head_dim"]
    vocabulary, feed, context = (arguments[k] for k in ("vocab_size", "intermediate_dim", "max_seq_len"))
    layers, classes = arguments["num_layers"], arguments["num_classes"] or 0
    return [
        (f"a vocabulary of {vocabulary}", width * vocabulary),
        (f"a feed-forward of {feed}", width * feed),
        (f"{heads} heads of {head_dim}", width * heads * head_dim),
        (f"{context} learned positions", width * context),
        (f"{layers} blocks of such", layers * 2 * width * (feed + heads * head_dim)),
        (f"{classes} classes", width * classes),
    ]


ENCODER = ModelKind(Encoder, _resolved, _matrices, wrong_settings)
