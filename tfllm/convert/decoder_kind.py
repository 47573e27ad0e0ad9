"""What the families of decoders have in common."""

from __future__ import annotations

from tfllm.convert.config_table import Arguments
from tfllm.convert.model_kind import ModelKind, with_defaults, without_effect
from tfllm.layers.feed_forward import default_intermediate_dim
from tfllm.models.decoder import Decoder
from tfllm.models.heads import wrong_classes


def _resolved(arguments: Arguments) -> Arguments:
    full = with_defaults(Decoder, arguments)
    heads, head_dim = full["num_heads"], full["head_dim"] or full["hidden_dim"] // full["num_heads"]
    by_default = {
        "num_kv_heads": heads,
        "head_dim": head_dim,
        "intermediate_dim": default_intermediate_dim(full["hidden_dim"], full["activation"]),
        "qkv_bias": full["use_bias"],
        "attention_output_bias": full["use_bias"],
        "feed_forward_bias": full["use_bias"],
        "attention_scale": head_dim**-0.5,
    }
    full.update({name: value for name, value in by_default.items() if full[name] is None})
    # What has no effect beside other arguments is brought to one form.
    full["use_bias"] = full["use_bias"] and full["norm"] == "layer_norm"
    full.update(without_effect(full, head_dim, layers=full["num_layers"]))
    if full["head"] == "causal_lm":
        full["pooling"] = "last"
    else:
        full["tie_embeddings"] = True  # there is no output layer
    if full["class_names"] is not None:
        full["class_names"] = tuple(full["class_names"])
    return full


def _matrices(arguments: Arguments) -> list[tuple[str, int]]:
    width, heads, head_dim = arguments["hidden_dim"], arguments["num_heads"], arguments["head_dim"]
    vocabulary, feed, context = (arguments[k] for k in ("vocab_size", "intermediate_dim", "max_seq_len"))
    sizes = [
        (f"a vocabulary of {vocabulary}", width * vocabulary),
        (f"a feed-forward of {feed}", width * feed),
        (f"{heads} heads of {head_dim}", width * heads * head_dim),
        (f"{arguments['num_classes']} classes", width * (arguments["num_classes"] or 0)),
    ]
    layers = arguments["num_layers"]
    sizes.append((f"{layers} blocks of such", layers * 2 * width * (feed + heads * head_dim)))
    learned = arguments["positions"] == "learned"
    return [*sizes, (f"{context} learned positions", width * context)] if learned else sizes


def _check(arguments: Arguments) -> str | None:
    heads, kv_heads = arguments["num_heads"], arguments.get("num_kv_heads")
    if kv_heads and heads % kv_heads:
        return f"{heads} attention heads must be divisible by {kv_heads} of keys"
    factors = (arguments.get("rope_scaling") or {}).get("factors")
    if factors is not None and 2 * len(factors) != arguments["rotary_dim"]:
        return f"{len(factors)} factors of rotary frequencies must be one for each pair of {arguments['rotary_dim']}"
    return wrong_classes(arguments, ("sequence_classification",))


DECODER = ModelKind(Decoder, _resolved, _matrices, _check)
