"""Vocabularies that write blanks as U+2581 inside a TensorFlow graph, as the `tokenizers` library does it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Mapping
from typing import Any

import tensorflow as tf
from tokenizers import normalizers

from tfllm.tokenizers.byte_runs import BYTE_NAMES
from tfllm.tokenizers.graph.code_points import CodePointMap, mapped_runs
from tfllm.tokenizers.graph.cut import MARK, WHITE, escaped
from tfllm.tokenizers.graph.normal_form import NormalForm
from tfllm.tokenizers.graph.pieces import GraphPieces
from tfllm.tokenizers.graph.precompiled import GraphPrecompiled
from tfllm.tokenizers.graph.text import repair
from tfllm.tokenizers.graph.tokenizer import GraphTokenizer
from tfllm.tokenizers.graph.unigram import UNKNOWN_PENALTY, GraphUnigram
from tfllm.tokenizers.metaspace_model import pieces_of, unknown_of
from tfllm.tokenizers.metaspace_rules import BY_CHARACTER, FORMS, MetaspaceRules
from tfllm.tokenizers.sentencepiece_model import BLANK
from tfllm.tokenizers.vocabulary import Vocabulary


class GraphMetaspaceTokenizer(GraphTokenizer):
    """`MetaspaceTokenizer` as TensorFlow operations; see `GraphTokenizer`.

    Args:
        vocabulary: as in `GraphTokenizer`.
        sought_names: as in `GraphTokenizer`.
        rules: how texts are prepared.
        model: that of the `tokenizer.json`, with all its options.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        sought_names: Mapping[str, str],
        rules: MetaspaceRules,
        model: Mapping[str, Any],
    ):
        super().__init__(vocabulary, sought_names, name="metaspace_tokenizer")
        self._normalizers = [_normalizer(step) for step in rules.normalizers]
        self._pre_tokenizers = list(rules.pre_tokenizers)
        self._model = (
            _unigram(model, vocabulary.special_tokens) if model["type"] == "Unigram" else _pieces(model)
        )

    def _normalize(self, texts: tf.Tensor) -> tf.Tensor:
        texts = repair(texts)
        for step in self._normalizers:
            texts = step(texts)
        return texts

    def _encode_piece(self, pieces: tf.Tensor, at_start: tf.Tensor) -> tf.RaggedTensor:
        return self._encode_inner(self._normalize(pieces), at_start)

    def _encode_normalized(self, texts: tf.Tensor) -> tf.RaggedTensor:
        return self._encode_inner(texts, tf.ones_like(texts, tf.bool))

    def _encode_inner(self, pieces: tf.Tensor, at_start: tf.Tensor) -> tf.RaggedTensor:
        words, row = pieces, tf.range(tf.size(pieces, tf.int64))
        for step in self._pre_tokenizers:
            if step["type"] == "Metaspace":
                words = tf.strings.regex_replace(words, " ", BLANK)
                # Only a first step says "first", so the words are the pieces still.
                begins = at_start if step["prepend_scheme"] == "first" else step["prepend_scheme"] == "always"
                bare = (words != "") & ~(tf.strings.substr(words, 0, len(BLANK.encode())) == BLANK)
                words = tf.where(begins & bare, BLANK + words, words)
            if (pattern := _split_pattern(step)) is not None:
                parts = tf.strings.split(tf.strings.regex_replace(words, *pattern), MARK)
                words, row = parts.flat_values, tf.gather(row, parts.value_rowids())
                words, row = tf.boolean_mask(words, words != ""), tf.boolean_mask(row, words != "")
        ids = self._model(words)
        by_piece = tf.RaggedTensor.from_value_rowids(ids, row, tf.size(pieces, tf.int64), validate=False)
        return tf.RaggedTensor.from_row_splits(
            ids.flat_values, tf.gather(ids.row_splits, by_piece.row_splits), validate=False
        )


def _split_pattern(step: Mapping[str, Any]) -> tuple[str, bytes] | None:
    """An expression and what to put for it, so that marks stand between words; None if the step does not split."""
    if step["type"] == "WhitespaceSplit":
        return f"{WHITE}+", MARK
    if step["type"] == "Metaspace":
        return (BLANK, MARK + BLANK.encode()) if step["split"] else None
    before, behind = {
        "Isolated": (MARK, MARK),
        "MergedWithPrevious": (b"", MARK),
        "MergedWithNext": (MARK, b""),
        "Removed": (MARK, b""),
    }[step["behavior"]]
    kept = b"" if step["behavior"] == "Removed" else rb"\0"
    return escaped(step["pattern"]["String"]), before + kept + behind


def _normalizer(step: Mapping[str, Any]) -> Callable[[tf.Tensor], tf.Tensor]:
    kind = step["type"]
    if kind == "Prepend":
        return lambda texts: tf.where(texts == "", "", step["prepend"] + texts)
    if kind == "Replace":
        pattern = step["pattern"]
        expression = (
            escaped(pattern["String"]) if "String" in pattern else pattern["Regex"].replace(r"\s", WHITE)
        )
        rewrite = step["content"].replace("\\", "\\\\")
        return lambda texts: tf.strings.regex_replace(texts, expression, rewrite)
    if kind == "Strip":
        left, right = (
            (f"^{WHITE}+" if step["strip_left"] else ""),
            (f"{WHITE}+$" if step["strip_right"] else ""),
        )
        expression = "|".join(part for part in (left, right) if part)
        return (
            (lambda texts: tf.strings.regex_replace(texts, expression, "")) if expression else (lambda x: x)
        )
    if kind in FORMS:
        with tf.init_scope():  # asks TensorFlow Text what it knows
            return NormalForm(kind)
    if kind == "Precompiled":
        return GraphPrecompiled(base64.b64decode(step["precompiled_charsmap"] or ""))
    assert kind in BY_CHARACTER
    return _ByCharacter(kind)


class _ByCharacter(tf.Module):
    """A normalizer of the library that treats each character by itself."""

    def __init__(self, kind: str):
        super().__init__(name=kind.lower())
        self._map = CodePointMap(mapped_runs(getattr(normalizers, kind)().normalize_str))

    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        characters = tf.strings.unicode_decode(texts, "UTF-8")
        points, text = self._map(characters.flat_values, characters.value_rowids())
        rows = tf.RaggedTensor.from_value_rowids(points, text, characters.nrows(), validate=False)
        return tf.strings.unicode_encode(rows, "UTF-8")


def _byte_ids(model: Mapping[str, Any]) -> list[int] | None:
    pieces = pieces_of(model)
    ids = [pieces.get(name, -1) for name in BYTE_NAMES]
    return ids if model["byte_fallback"] and max(ids) >= 0 else None


def _pieces(model: Mapping[str, Any]) -> GraphPieces:
    unknown, pieces = unknown_of(model), pieces_of(model)
    return GraphPieces(
        pieces,
        [(left, right) for left, right in model["merges"]],
        byte_ids=_byte_ids(model),
        unknown_id=None if unknown is None else pieces[unknown],
        fuse_unknown=model["fuse_unk"],
    )


def _unigram(model: Mapping[str, Any], special_tokens: Collection[str]) -> GraphUnigram:
    scores = model["vocab"]
    return GraphUnigram(
        {name: (i, score) for i, (name, score) in enumerate(scores) if name and name not in special_tokens},
        unknown_id=model["unk_id"],
        unknown_score=min(score for _, score in scores) - UNKNOWN_PENALTY,
        byte_ids=_byte_ids(model),
        dtype=tf.float64,
    )
