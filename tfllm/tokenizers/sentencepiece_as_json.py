"""SentencePiece models as `tokenizer.json` files say them."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence
from typing import Any

from tfllm.tokenizers.added_token import AddedToken
from tfllm.tokenizers.sentencepiece_model import BLANK, BYTE, NORMAL, UNIGRAM, UNKNOWN, Model

# Blanks at the ends of a text: no other file says it so.
ENDS = r"\A +| +\z"


def model_to_json(model: Model, added: Sequence[AddedToken], *, prefix_every_piece: bool) -> dict[str, Any]:
    """Return the content of a `tokenizer.json` that says what a model does."""
    names = [piece.piece for piece in model.pieces]
    unknown = next(i for i, piece in enumerate(model.pieces) if piece.type == UNKNOWN)
    fallback = any(piece.type == BYTE for piece in model.pieces)
    rules = model.normalizer_spec
    scheme = ("always" if prefix_every_piece else "first") if rules.add_dummy_prefix else "never"
    steps: list[dict[str, Any]] = []
    if rules.precompiled_charsmap:
        charsmap = base64.b64encode(rules.precompiled_charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if rules.remove_extra_whitespaces:
        steps += [_replace({"Regex": ENDS}, ""), _replace({"Regex": " {2,}"}, " ")]
    if scheme == "always":  # unlike Metaspace it also goes before a blank
        steps.append({"type": "Prepend", "prepend": BLANK})
    if scheme != "first":
        steps.append(_replace({"String": " "}, BLANK))
    if model.trainer_spec.model_type == UNIGRAM:
        scores = [[piece.piece, piece.score] for piece in model.pieces]
        inner = {"type": "Unigram", "unk_id": unknown, "vocab": scores, "byte_fallback": fallback}
    else:
        inner = {
            "type": "BPE",
            "dropout": None,
            "unk_token": names[unknown],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": fallback,
            "ignore_merges": False,
            "vocab": {name: i for i, name in enumerate(names)},
            "merges": _merges(model),
        }
    metaspace = {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "first", "split": False}
    decoders: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": BLANK}, "content": " "}]
    decoders += [{"type": "ByteFallback"}, {"type": "Fuse"}]
    if rules.add_dummy_prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [dataclasses.asdict(token) for token in added],
        "normalizer": {"type": "Sequence", "normalizers": steps} if steps else None,
        "pre_tokenizer": metaspace if scheme == "first" else None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": inner,
    }


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _merges(model: Model) -> list[list[str]]:
    """Every pair that makes a piece, of those with the highest score first."""
    ids = {piece.piece: i for i, piece in enumerate(model.pieces) if piece.type == NORMAL}
    found = []
    for name, i in ids.items():
        for at in range(1, len(name)):
            left, right = name[:at], name[at:]
            if left in ids and right in ids:
                found.append((-model.pieces[i].score, i, ids[left], ids[right], [left, right]))
    return [pair for *_, pair in sorted(found)]
