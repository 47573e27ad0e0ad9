"""How a `tokenizer.json` whose vocabulary writes blanks as U+2581 prepares texts, and how it writes them again."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import tokenizers

from tfllm.tokenizers.charsmap import charsmap_parts
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.sentencepiece_model import BLANK

_MEND = "put the checkpoint's tokenizer.model beside it, or take another tokenizer"
# Normalizers that treat each character by itself, and those that leave the first one in its place.
BY_CHARACTER = ("Lowercase", "StripAccents", "Nmt")
FORMS = ("NFC", "NFD", "NFKC", "NFKD")
_KEEP_PLACES = ("Prepend", "Replace", "Lowercase", *FORMS)
# Those that make U+0020 of other characters.
_MAKE_BLANKS = ("NFKC", "NFKD", "Nmt", "Precompiled")
# Expressions that can be written for TensorFlow.
EXPRESSIONS = (" {2,}", r"\s+", r"\s{2,}|[\n\r\t]")
_BEHAVIORS = ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext")
_TO_BLANK = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}


@dataclasses.dataclass(frozen=True)
class MetaspaceRules:
    """What is done to texts before a model sees them, and to its tokens when they become text.

    Args:
        normalizers: the steps of the normalizer, as the `tokenizers` library writes them.
        pre_tokenizers: those of the pre-tokenizer.
        replacements: what decoding replaces in each token.
        byte_fallback: tokens like <0x0A> are decoded to bytes.
        blanks_taken: how many blanks decoding takes from the start of a text.
        marks_dropped: the first token of a decoded text loses its U+2581.
        separator: what decoding puts between tokens.
    """

    normalizers: tuple[Mapping[str, Any], ...]
    pre_tokenizers: tuple[Mapping[str, Any], ...]
    replacements: tuple[tuple[str, str], ...] = ()
    byte_fallback: bool = False
    blanks_taken: int = 0
    marks_dropped: bool = False
    separator: str = ""

    @property
    def leaves_blanks(self) -> bool:
        """Whether a text may hold blanks still when it comes to the model."""
        if any(step["type"] in ("Metaspace", "WhitespaceSplit") for step in self.pre_tokenizers):
            return False
        steps = list(self.normalizers)
        while steps and steps[-1] != _TO_BLANK:
            step = steps.pop()
            if step["type"] in _MAKE_BLANKS or " " in step.get("content", "") + step.get("prepend", ""):
                return True
        return not steps


def read_rules(where: object, content: Mapping[str, Any]) -> MetaspaceRules:
    """Read the rules of a `tokenizer.json`.

    Raises:
        TokenizerError: it does something that is not known.
    """
    steps = {part: steps_of(content.get(part), plural) for part, plural in _PARTS.items()}
    for step in steps["normalizer"]:
        _check_normalizer(where, step)
    for step in steps["pre_tokenizer"]:
        if step.get("type") not in ("Metaspace", "WhitespaceSplit", "Split"):
            raise TokenizerError(f"{where}: pre_tokenizer={step!r} is none of SentencePiece's; {_MEND}")
    # The library fills in what a file leaves out, and knows how older ones said it.
    written = _as_library_writes(where, content)
    steps = {part: steps_of(written.get(part), plural) for part, plural in _PARTS.items()}
    normalizers, pre_tokenizers = steps["normalizer"], steps["pre_tokenizer"]
    for step in pre_tokenizers:
        _check_pre_tokenizer(where, step)
    kinds = [step["type"] for step in pre_tokenizers]
    if "Metaspace" not in kinds and _TO_BLANK not in normalizers:
        raise TokenizerError(
            f"{where}: normalizer={content.get('normalizer')!r} is none of SentencePiece's, which writes blanks as"
            f" U+2581; {_MEND}"
        )
    first = [i for i, step in enumerate(pre_tokenizers) if step.get("prepend_scheme") == "first"]
    moves = [s for s in normalizers if s["type"] not in _KEEP_PLACES or not (s.get("content", BLANK))]
    if first and (first[0] > 0 or moves):
        other = moves[0] if moves else pre_tokenizers[0]
        raise TokenizerError(
            f"{where}: prepend_scheme='first' must not go with {other!r}, which moves the start of a text; {_MEND}"
        )
    return MetaspaceRules(tuple(normalizers), tuple(pre_tokenizers), **_decoding(where, steps["decoder"]))


_PARTS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}


def steps_of(part: Any, plural: str) -> list[Mapping[str, Any]]:
    """The steps of a part of a `tokenizer.json`, in order; `plural` is what a sequence calls its own."""
    if part is None:
        return []
    if isinstance(part, dict) and part.get("type") == "Sequence":
        return [inner for step in part.get(plural) or [] for inner in steps_of(step, plural)]
    return [part if isinstance(part, dict) else {"type": part}]


def normalizer_of(where: object, content: Mapping[str, Any]) -> Callable[[str], str]:
    """The normalizer of a `tokenizer.json`, as the library has it."""
    normalizer = _library(where, content).normalizer
    return (lambda text: text) if normalizer is None else normalizer.normalize_str


def _as_library_writes(where: object, content: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(_library(where, content).to_str())


def _library(where: object, content: Mapping[str, Any]) -> tokenizers.Tokenizer:
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    parts = {part: content.get(part) for part in _PARTS}
    try:
        return tokenizers.Tokenizer.from_str(json.dumps({"version": "1.0", **parts, "model": empty}))
    except Exception as error:  # the library raises no narrower one
        raise TokenizerError(
            f"{where}: normalizer, pre_tokenizer and decoder must be ones that the `tokenizers` library reads"
            f" ({error}); download it again"
        ) from None


def _check_normalizer(where: object, step: Mapping[str, Any]) -> None:
    kind, pattern = step.get("type"), step.get("pattern")
    known = kind in ("Prepend", "Strip", *BY_CHARACTER, *FORMS)
    if kind == "Replace":
        expression = pattern.get("Regex") if isinstance(pattern, dict) else None
        known = isinstance(pattern, dict) and (bool(pattern.get("String")) or expression in EXPRESSIONS)
    if kind == "Precompiled":
        known = True
        try:
            charsmap_parts(base64.b64decode(step.get("precompiled_charsmap") or "", validate=True))
        except (binascii.Error, TypeError, ValueError) as error:
            raise TokenizerError(
                f"{where}: precompiled_charsmap must be base64 of one of SentencePiece's tables ({error}); download it"
                " again"
            ) from None
    if not known:
        raise TokenizerError(f"{where}: normalizer={step!r} is none of SentencePiece's; {_MEND}")


def _check_pre_tokenizer(where: object, step: Mapping[str, Any]) -> None:
    if (step["type"] == "Metaspace" and step["replacement"] == BLANK) or step["type"] == "WhitespaceSplit":
        return
    if (
        step["type"] == "Split"
        and step["pattern"].get("String")
        and step["behavior"] in _BEHAVIORS
        and not step["invert"]
    ):
        return
    raise TokenizerError(f"{where}: pre_tokenizer={step!r} is none of SentencePiece's; {_MEND}")


def _decoding(where: object, steps: list[Mapping[str, Any]]) -> dict[str, Any]:
    if not steps:
        return {"separator": " "}
    kinds = [step["type"] for step in steps]
    if kinds == ["Metaspace"] and steps[0]["replacement"] == BLANK:
        return {"replacements": ((BLANK, " "),), "marks_dropped": steps[0]["prepend_scheme"] != "never"}
    found: dict[str, Any] = {"replacements": ()}
    while kinds and kinds[0] == "Replace" and steps[0]["pattern"].get("String"):
        found["replacements"] += ((steps[0]["pattern"]["String"], steps[0]["content"]),)
        kinds, steps = kinds[1:], steps[1:]
    if kinds and kinds[0] == "ByteFallback":
        found["byte_fallback"] = True
        kinds, steps = kinds[1:], steps[1:]
    if kinds and kinds[0] == "Fuse":
        kinds, steps = kinds[1:], steps[1:]
        if kinds == ["Strip"] and (steps[0]["content"], steps[0]["stop"]) == (" ", 0):
            return {**found, "blanks_taken": steps[0]["start"]}
    if kinds:
        raise TokenizerError(
            f"{where}: decoder={steps[0]!r} is not known there; known are Metaspace, and Replace of a text,"
            f" ByteFallback, Fuse and Strip of leading blanks in this order; {_MEND}"
        )
    return found
