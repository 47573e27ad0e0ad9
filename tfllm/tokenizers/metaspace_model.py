"""The model of a `tokenizer.json` whose vocabulary writes blanks as U+2581: BPE over characters, or Unigram."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tfllm.tokenizers.bpe_vocab import pairs
from tfllm.tokenizers.byte_runs import BYTE_NAMES
from tfllm.tokenizers.errors import TokenizerError

_MEND = "put the checkpoint's tokenizer.model beside it, or take another tokenizer"
# Options of a BPE model that would change its ids.
_UNKNOWN_OPTIONS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")


def checked_model(where: object, content: Mapping[str, Any]) -> dict[str, Any]:
    """The model of a `tokenizer.json` with its type and all options.

    Raises:
        TokenizerError: it is malformed, or has options that are not known.
    """
    model = content["model"]
    try:
        if model.get("type", "BPE" if "merges" in model else "Unigram") == "Unigram":
            return _unigram(where, model)
        return _bpe(where, model)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, TokenizerError):
            raise
        raise TokenizerError(f"{where}: model must be well formed ({error!r}); download it again") from None


def _unigram(where: object, model: Mapping[str, Any]) -> dict[str, Any]:
    scores = [[_text(name), float(score)] for name, score in model["vocab"]]
    unknown = model.get("unk_id")
    if unknown is None:
        raise TokenizerError(f"{where}: model must have an unknown token; {_MEND}")
    if not 0 <= int(unknown) < len(scores):
        raise ValueError(f"unk_id={unknown!r}")
    names = {str(name) for name, _ in scores}
    if len(names) != len(scores):
        raise ValueError("a piece stands there twice")
    fallback = bool(model.get("byte_fallback", False))
    _check_bytes(where, fallback, names, partly=False)
    return {"type": "Unigram", "unk_id": int(unknown), "vocab": scores, "byte_fallback": fallback}


def _bpe(where: object, model: Mapping[str, Any]) -> dict[str, Any]:
    for option in _UNKNOWN_OPTIONS:
        if model.get(option):
            raise TokenizerError(f"{where}: model.{option}={model[option]!r} must be left out; {_MEND}")
    vocab = {_text(name): int(i) for name, i in model["vocab"].items()}
    merges = pairs(model["merges"])
    for left, right in merges:
        for piece in (left, right, left + right):
            if piece not in vocab:
                raise TokenizerError(
                    f"{where}: merge {left!r} {right!r} must stand beside the others that make {left + right!r}, and"
                    f" {piece!r} must be in the vocabulary; {_MEND}"
                )
    unknown = model.get("unk_token")
    if unknown is not None and unknown not in vocab:
        raise TokenizerError(f"{where}: model.unk_token={unknown!r} must be in the vocabulary; {_MEND}")
    fallback = bool(model.get("byte_fallback", False))
    _check_bytes(where, fallback, vocab.keys(), partly=unknown is None)
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": bool(model.get("fuse_unk", False)),
        "byte_fallback": fallback,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": [list(pair) for pair in merges],
    }


def _text(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{name!r} is no text")
    return name


def _check_bytes(where: object, fallback: bool, names: Iterable[str], *, partly: bool) -> None:
    count = len(set(BYTE_NAMES) & set(names)) if fallback and not partly else 0
    if count not in (0, 256):
        raise TokenizerError(
            f"{where}: model.byte_fallback=true must go with all 256 bytes or none in the vocabulary, it has {count};"
            f" {_MEND}"
        )


def pieces_of(model: Mapping[str, Any]) -> dict[str, int]:
    """Name to id of the pieces of a model."""
    if model["type"] == "BPE":
        return model["vocab"]
    return {name: i for i, (name, _) in enumerate(model["vocab"])}


def unknown_of(model: Mapping[str, Any]) -> str | None:
    """Name of the unknown piece of a model, None if it has none."""
    return model["unk_token"] if model["type"] == "BPE" else model["vocab"][model["unk_id"]][0]


def check_special_names(where: object, model: Mapping[str, Any], special: Mapping[str, int]) -> None:
    """Refuse special names that some text may become; those that a Unigram model finds in texts are hidden from it.

    Raises:
        TokenizerError: there is one.
    """
    merges = model["merges"] if model["type"] == "BPE" else ()
    made = {left + right for left, right in merges} | set(BYTE_NAMES if model["byte_fallback"] else ())
    pieces = pieces_of(model)
    for name in special:
        if name in pieces and (name in made or (model["type"] == "BPE" and len(name) == 1)):
            raise TokenizerError(
                f"{where}: special token {name!r} must not be a token of the text; name it like '<|bos|>', which no"
                " merge makes"
            )
