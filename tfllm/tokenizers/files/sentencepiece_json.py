"""SentencePiece models in `tokenizer.json` files: as transformers converts them there, and back."""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tfllm.tokenizers.added_token import AddedToken
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.files.bpe_files import pairs
from tfllm.tokenizers.sentencepiece_model import (
    BLANK,
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    UNUSED,
    Model,
    built_model,
)

# Blanks at the ends of a text.
_ENDS = r"\A +| +\z"
# Of a piece that no merge makes.
_NO_SCORE = -1e9
_MEND = "put the checkpoint's tokenizer.model beside it, or take another tokenizer"


@dataclasses.dataclass(frozen=True)
class JsonModel:
    """What a `tokenizer.json` says of a SentencePiece model.

    Args:
        model: the same as the content of a `tokenizer.model`.
        names: the pieces, by id.
        prefix_every_piece: what stands behind an added token begins with a blank as a text does.
    """

    model: bytes
    names: tuple[str, ...]
    prefix_every_piece: bool


def is_written_here(content: Mapping[str, Any]) -> bool:
    """Whether a `tokenizer.json` says by `model_to_json`'s own expression what SentencePiece's normalizer does.

    No option of the `tokenizers` library does the same, so the file means the model it was written from.
    """
    steps = _steps(content.get("normalizer"), "normalizers")
    return any(step.get("pattern") == {"Regex": _ENDS} for step in steps)


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
    bytes_ = {f"<0x{byte:02X}>" for byte in range(256)} if fallback else set()

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
    return JsonModel(built, tuple(name for name, _ in scores), rules.prefix == "always")


@dataclasses.dataclass
class _Rules:
    """How texts are normalized: what SentencePiece has options for."""

    charsmap: bytes = b""
    prefix: str = "never"
    remove_extra: bool = False


def _rules(where: object, content: Mapping[str, Any]) -> _Rules:
    rules = _Rules()
    for step in _steps(content.get("normalizer"), "normalizers"):
        _apply_normalizer(where, step, rules)
    for step in _steps(content.get("pre_tokenizer"), "pretokenizers"):
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
    elif kind == "Replace" and pattern in ({"Regex": " {2,}"}, {"Regex": _ENDS}):
        rules.remove_extra = True
    elif kind == "Strip" or (
        kind == "Replace" and pattern == {"String": " "} and step.get("content") == BLANK
    ):
        pass
    else:
        raise TokenizerError(f"{where}: normalizer={step!r} is none of SentencePiece's; {_MEND}")


def _steps(part: Any, name: str) -> list[Mapping[str, Any]]:
    if part is None:
        return []
    if isinstance(part, dict) and part.get("type") == "Sequence":
        return [inner for step in part.get(name) or [] for inner in _steps(step, name)]
    return [part if isinstance(part, dict) else {"type": part}]


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
    plain = vocab.keys() - named - {f"<0x{byte:02X}>" for byte in range(256)}
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
        steps += [_replace({"Regex": _ENDS}, ""), _replace({"Regex": " {2,}"}, " ")]
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
