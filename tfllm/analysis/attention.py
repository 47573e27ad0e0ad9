"""Attention scores of a text, as arrays with readable labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tfllm.analysis.errors import AnalysisError


@runtime_checkable
class ShowsAttention(Protocol):
    """A model whose blocks give their attention scores where they are asked for by name."""

    block_names: Sequence[str]
    max_seq_len: int | None

    def __call__(self, features: dict[str, Any], *, attention_scores: Collection[str]) -> dict[str, Any]:
        """Outputs, with `attention_scores`: {"block_03": float [B, N, T, S], …}."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class AttentionMaps:
    """The attention scores of one text.

    A layer goes by its name, `"block_03"`, or by its number among those that read the text, 3, negative from
    the end; that holds also when only some layers were asked for.

    Args:
        scores: float32 [L, N, T, T]; `scores[l, n, t, s]` is how much query t takes from key s, and each
            query's scores sum to 1.
        layers: Names of the L layers.
        labels: A readable label for each of the T tokens, e.g. `␣the`.
        token_ids: int32 [T], the start of the document included.
        model_layers: Names of all layers that read the text; empty: `layers` are all.
    """

    scores: np.ndarray
    layers: tuple[str, ...]
    labels: tuple[str, ...]
    token_ids: np.ndarray
    model_layers: tuple[str, ...] = ()

    def __post_init__(self):
        tokens = len(self.labels)
        expected = (len(self.layers), *self.scores.shape[1:2], tokens, tokens)
        if self.scores.shape != expected or self.token_ids.shape != (tokens,):
            raise AnalysisError(
                f"scores {self.scores.shape} and token_ids {self.token_ids.shape} must be [L, N, T, T] and"
                f" [T] for {len(self.layers)} layers and {tokens} labels; take all from one call of a model"
            )

    @property
    def num_heads(self) -> int:
        """Heads N of each layer."""
        return self.scores.shape[1]

    def layer_index(self, layer: int | str) -> int:
        """Returns where a layer stands in `scores`.

        Raises:
            AnalysisError: when the model has no such layer, or its scores were not asked for.
        """
        name = _layer_name(layer, self.model_layers or self.layers)
        if name not in self.layers:
            raise AnalysisError(
                f"layer {layer!r} is not among the captured ones, {', '.join(self.layers)}; add it to layers"
                " in attention_maps"
            )
        return self.layers.index(name)

    def head_index(self, head: int) -> int:
        """Returns a head's number, counted from 0; a negative one counts from the end.

        Raises:
            AnalysisError: when the layers have no such head.
        """
        if not -self.num_heads <= head < self.num_heads:
            raise AnalysisError(f"head {head} is not there; a layer has heads 0 to {self.num_heads - 1}")
        return int(head) % self.num_heads

    def head(self, layer: int | str, head: int) -> np.ndarray:
        """Returns the scores of one head, float32 [T, T]: a row a query, a column a key.

        Args:
            layer: Name or number of the layer.
            head: Number of the head.

        Raises:
            AnalysisError: when there is no such layer or head.
        """
        return self.scores[self.layer_index(layer), self.head_index(head)]

    def entropy(self) -> np.ndarray:
        """Returns how widely each head spreads its attention: float32 [L, N], nats, the mean over queries.

        0 looks at one token only, log(T) at all T tokens alike. Early queries of a causal model have few
        keys to choose from, so short texts come out lower.
        """
        logs = np.log(np.where(self.scores > 0, self.scores, 1.0))
        return -(self.scores * logs).sum(axis=-1).mean(axis=-1) + 0.0  # + 0.0: no "-0.00" in a table

    def mean_distance(self) -> np.ndarray:
        """Returns how far each head looks: float32 [L, N], tokens between query and key.

        Distances are weighted by the scores and averaged over queries; 0 is a head that looks at the token
        itself.
        """
        places = np.arange(len(self.labels), dtype=np.float32)
        distance = np.abs(places[:, None] - places[None, :])
        return (self.scores * distance).sum(axis=-1).mean(axis=-1)


def attention_maps(
    lm: Any, text: str, *, layers: int | str | Sequence[int | str] | None = None
) -> AttentionMaps:
    """Reads a text with a language model and keeps what its heads attend to.

    Args:
        lm: A `tfllm.LanguageModel`, or anything with its `model`, `tokenizer` and `features`.
        text: The text; the start of the document is put before it, as in generation.
        layers: Names (`"block_03"`) or numbers (3, -1) of the layers wanted, one or several; None takes all
            that read the text: of an encoder-decoder those of the encoder, `"encoder/block_03"`. The scores
            of a layer are 4 N T² bytes, so choose for large models and long texts.

    Returns:
        Scores, labels and ids; see `AttentionMaps`.

    Raises:
        AnalysisError: when the text is empty or longer than the context, a layer is not there, or the model
            gives no scores.

    Example:
        >>> maps = attention_maps(tfllm.load("runs/quickstart"), "The assert statement", layers=[0, -1])
        >>> maps.head("block_00", 2).shape == (len(maps.labels), len(maps.labels))
        True
    """
    if not isinstance(lm.model, ShowsAttention):
        kind = type(lm.model).__name__
        raise AnalysisError(f"{kind} gives no attention scores; take a model of tfllm's own")
    if not text:
        raise AnalysisError("text='' has no tokens to look at; write a few words")
    features = lm.features(text)
    reader = "encoder" if "encoder_token_ids" in features else ""
    token_ids = np.asarray(features[f"{reader}_token_ids" if reader else "token_ids"][0], np.int32)
    _check_length(len(token_ids), lm.model.max_seq_len)
    model_layers = tuple(name for name in lm.model.block_names if name.startswith(reader))
    names = _layer_names(layers, model_layers)
    scores = lm.model(features, attention_scores=names)["attention_scores"]
    return AttentionMaps(
        scores=np.stack([np.asarray(scores[name][0], np.float32) for name in names]),
        layers=names,
        labels=tuple(lm.tokenizer.token_label(int(token_id)) for token_id in token_ids),
        token_ids=token_ids,
        model_layers=model_layers,
    )


def _check_length(tokens: int, longest: int | None) -> None:
    if longest is not None and tokens > longest:
        raise AnalysisError(
            f"the text has {tokens} tokens with the start of the document; the context holds {longest}; shorten the"
            " text"
        )


def _layer_names(layers: int | str | Sequence[int | str] | None, known: Sequence[str]) -> tuple[str, ...]:
    if layers is None:
        return tuple(known)
    if isinstance(layers, str | int | np.integer):
        layers = [layers]
    names = [_layer_name(layer, known) for layer in layers]
    if not names:
        raise AnalysisError(
            f"layers={layers!r} names no layer; choose from {', '.join(known)}, or leave it out"
        )
    return tuple(dict.fromkeys(names))  # each once: 3 and -1 may be the same layer


def _layer_name(layer: int | str, known: Sequence[str]) -> str:
    if isinstance(layer, str) and layer in known:
        return layer
    if isinstance(layer, int | np.integer) and -len(known) <= layer < len(known):
        return known[layer]
    shown = known[0] if len(known) == 1 else f"{known[0]} to {known[-1]}"
    raise AnalysisError(
        f"layer {layer!r} is not there; the text is read by {shown}, or by number 0 to {len(known) - 1}"
    )
