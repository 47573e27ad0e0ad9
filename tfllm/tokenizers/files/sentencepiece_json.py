"""SentencePiece models in `tokenizer.json` files, as transformers converts them there."""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tfllm.tokenizers.added_token import AddedToken
from tfllm.tokenizers.bpe_vocab import pairs
from tfllm.tokenizers.byte_runs import BYTE_NAMES
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.metaspace_rules import steps_of
from tfllm.tokenizers.sentencepiece_as_json import ENDS
from tfllm.tokenizers.sentencepiece_model import (
    BLANK,
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    UNUSED,
    built_model,
)

# Of a piece that no merge makes.
_NO_SCORE = -1e9
_MEND = "put the checkpoint's tokenizer.model beside it, or take another tokenizer"


@dataclasses.dataclass(frozen=True)
class JsonModel:
    """What a `tokenizer.json` says of a SentencePiece model.

    Args:
        model: the same as the content of a `tokenizer.model`.
        prefix_every_piece: what stands behind an added token begins with a blank as a text does.
    """

    model: bytes
    prefix_every_piece: bool


def is_written_here(content: Mapping[str, Any]) -> bool:
    """Whether a `tokenizer.json` says by `model_to_json`'s own expression what SentencePiece's normalizer does.

    No option of the `tokenizers` library does the same, so the file means the model it was written from.
    """
    steps = steps_of(content.get("normalizer"), "normalizers")
    return any(step.get("pattern") == {"Regex": ENDS} for step in steps)


def model_of_json(where: object, content: Mapping[str, Any], added: Sequence[AddedToken]) -> JsonModel:
    """Build the model that a `tokenizer.json` with Unigram, or BPE over blanks and bytes, comes from.

    Raises:
        TokenizerError: it does not come from one.
    """
    model = content["model"]
    rules = _rules(where, content)
    try:
        if model["type"] == "Unigram":
            scores = [(str(name), float(score)) for name, score in model["vocab"]]
            unknown = scores[model["unk_id"]][0] if model.get("unk_id") is not None else None
        else:
            unknown = model.get("unk_token")
            scores = _bpe_scores(where, model, {token.content for token in added})
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise TokenizerError(f"{where}: model must be well formed ({error!r}); download it again") from None
    if unknown is None:
        raise TokenizerError(f"{where}: model must have an unknown token; {_MEND}")
    named = {token.content for token in added}
    fallback = bool(model.get("byte_fallback", False))
    bytes_ = set(BYTE_NAMES) if fallback else set()

    def kind(name: str) -> int:
        if name == unknown:
            return UNKNOWN
        return BYTE if name in bytes_ else CONTROL if name in named else UNUSED if name[0] == " " else NORMAL

    built = built_model(
        [(name, score, kind(name)) for name, score in scores],
        model_type=UNIGRAM if model["type"] == "Unigram" else BPE,
        charsmap=rules.charsmap,
        add_dummy_prefix=rules.prefix != "never",
        remove_extra_whitespaces=rules.remove_extra,
    )
    return JsonModel(built, rules.prefix == "always")


@dataclasses.dataclass
class _Rules:
    """How texts are normalized: what SentencePiece has options for."""

    charsmap: bytes = b""
    prefix: str = "never"
    remove_extra: bool = False


def _rules(where: object, content: Mapping[str, Any]) -> _Rules:
    rules = _Rules()
    for step in steps_of(content.get("normalizer"), "normalizers"):
        _apply_normalizer(where, step, rules)
    for step in steps_of(content.get("pre_tokenizer"), "pretokenizers"):
        kind = step.get("type")
        if kind == "Metaspace" and step.get("replacement", BLANK) == BLANK:
            rules.prefix = step.get("prepend_scheme") or (
                "always" if step.get("add_prefix_space", True) else "never"
            )
        elif kind == "WhitespaceSplit":
            rules.remove_extra = True
        elif kind != "Split" or step.get("pattern") != {
            "String": " "
        }:  # Gemma's, which finds no blank any more
            raise TokenizerError(f"{where}: pre_tokenizer={step!r} is none of SentencePiece's; {_MEND}")
    return rules


def _apply_normalizer(where: object, step: Mapping[str, Any], rules: _Rules) -> None:
    kind, pattern = step.get("type"), step.get("pattern")
    if kind == "Precompiled":
        try:
            rules.charsmap = base64.b64decode(step.get("precompiled_charsmap") or "", validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise TokenizerError(
                f"{where}: precompiled_charsmap must be base64 ({error}); download it again"
            ) from None
    elif kind == "Prepend" and step.get("prepend") == BLANK:
        rules.prefix = "always"
    elif kind == "Replace" and pattern in ({"Regex": " {2,}"}, {"Regex": ENDS}):
        rules.remove_extra = True
    elif kind == "Strip" or (
        kind == "Replace" and pattern == {"String": " "} and step.get("content") == BLANK
    ):
        pass
    else:
        raise TokenizerError(f"{where}: normalizer={step!r} is none of SentencePiece's; {_MEND}")


def _bpe_scores(where: object, model: Mapping[str, Any], named: set[str]) -> list[tuple[str, float]]:
    """Name and score of each piece, by id: SentencePiece merges the pair whose joint piece has the highest score.

    That is what the merges say if those that make one piece stand together, and no pair that makes one is missing.
    """
    vocab = {str(token): int(i) for token, i in model["vocab"].items()}
    merges = pairs(model["merges"])
    ranks: dict[str, int] = {}
    last = None
    for left, right in merges:
        piece = left + right
        if (piece != last and piece in ranks) or piece not in vocab:
            raise TokenizerError(
                f"{where}: merge {left!r} {right!r} must stand beside the others that make {piece!r}, which must be"
                f" in the vocabulary, as SentencePiece has it; {_MEND}"
            )
        last = piece
        ranks.setdefault(piece, len(ranks))
    known = set(merges)
    plain = vocab.keys() - named - set(BYTE_NAMES)
    for piece in plain:
        for i in range(1, len(piece)):
            left, right = piece[:i], piece[i:]
            if left in plain and right in plain and (left, right) not in known:
                raise TokenizerError(
                    f"{where}: merge {left!r} {right!r} must be there, SentencePiece makes {piece!r} of them; {_MEND}"
                )
    size = 1 + max(vocab.values())
    if min(vocab.values()) < 0 or len(set(vocab.values())) != len(vocab) or size >= 2 * len(vocab) + 1024:
        raise TokenizerError(f"{where}: ids must be from 0 on, each once, with few holes; download it again")
    scores = [(f" {i}", 0.0) for i in range(size)]  # a hole: no text has a blank once it is normalized
    for token, i in vocab.items():
        # Only what merges make is ever merged to; a character is there by itself.
        scores[i] = (token, float(-ranks[token]) if token in ranks else _NO_SCORE)
    return scores
