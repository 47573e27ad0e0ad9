"""Vocabularies that write blanks as U+2581, as a `tokenizer.json` has them, on the `tokenizers` library."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers

from tfllm.tokenizers.added_token import AddedToken, not_guessed, written_names
from tfllm.tokenizers.bpe_vocab import check_ids
from tfllm.tokenizers.byte_runs import ByteRuns
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.files.bpe_files import pairs
from tfllm.tokenizers.framing import read_framing
from tfllm.tokenizers.library_tokenizer import own_ids
from tfllm.tokenizers.metaspace_rules import MetaspaceRules, normalizer_of, read_rules
from tfllm.tokenizers.opening import Opening
from tfllm.tokenizers.repair import repair_text
from tfllm.tokenizers.roles import choose_roles, three_roles
from tfllm.tokenizers.sentencepiece_model import BLANK
from tfllm.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tfllm.tokenizers.graph.metaspace import GraphMetaspaceTokenizer

BYTE_NAMES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_MEND = "put the checkpoint's tokenizer.model beside it, or take another tokenizer"
# Options of a BPE model that would change its ids.
_UNKNOWN_OPTIONS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")


class MetaspaceTokenizer(Tokenizer):
    """BPE over characters or Unigram with U+2581 for blanks, as transformers saves Llama 2, Gemma, T5 and XLM-R.

    It does what the `tokenizers` library does with the file, which is not always what the SentencePiece model that the
    vocabulary may come from would do. Usually made by `read_tokenizer`.

    Args:
        content: what a `tokenizer.json` says; of `truncation`, `padding` and `post_processor` nothing is used.
        special_tokens: name to id.
        bos_token: name of the token that begins a document.
        eos_token: name of the token that ends a document.
        pad_token: name of the token that fills a row.
        added_tokens: as in `Tokenizer`; their ids may lie beyond the model's.
        where: what to name in errors.
        **conventions: further arguments of `Tokenizer`.

    Raises:
        TokenizerError: the content is malformed, or does what is not known.
    """

    type = "metaspace"

    def __init__(
        self,
        content: Mapping[str, Any],
        *,
        special_tokens: Mapping[str, int],
        bos_token: str,
        eos_token: str,
        pad_token: str,
        added_tokens: Sequence[AddedToken] = (),
        where: object = "tokenizer.json",
        **conventions: Any,
    ):
        self.rules = read_rules(where, content)
        self.model = _checked_model(where, content)
        self._content = {key: content.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")}
        self.pieces = vocabulary_of(self.model)
        named = {token.content: token.id for token in added_tokens} | dict(special_tokens)
        _check_names(where, self.model, self.pieces, special_tokens)
        whole = {**self.pieces, **named}
        check_ids(whole)
        names = written_names(whole, added_tokens, normalizer_of(where, content))
        decoded = _decoded(names, self.rules)
        super().__init__(
            decoded,
            special_tokens=special_tokens,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            added_tokens=added_tokens,
            opening=_opening(names, self.rules),
            **conventions,
        )
        bytes_ = frozenset(i for i, name in names.items() if _byte_of(name) is not None)
        self.byte_runs = ByteRuns(bytes_, whole=True) if self.rules.byte_fallback and bytes_ else None
        self.blanks_taken = self.rules.blanks_taken
        self._library, self._ids = self._new_library(where, trusted=False)
        self._trusted: tuple[tokenizers.Tokenizer, np.ndarray | None] | None = (
            None  # made when first asked for
        )

    def _new_library(self, where: object, *, trusted: bool) -> tuple[tokenizers.Tokenizer, np.ndarray | None]:
        """The library's tokenizer, and our ids by its ids where they differ; to one that is not trusted special
        names are text.
        """
        model = self.model
        if not trusted and model["type"] == "Unigram":
            # Else it would find their names in texts. No text holds a blank once it is normalized.
            hidden = [
                [f" {i}" if name in self.special_tokens else name, s]
                for i, (name, s) in enumerate(model["vocab"])
            ]
            model = {**model, "vocab": hidden}
        try:
            library = tokenizers.Tokenizer.from_str(
                json.dumps({"version": "1.0", **self._content, "model": model}, ensure_ascii=False)
            )
        except Exception as error:  # the library raises no narrower one
            raise TokenizerError(
                f"{where}: model must be well formed, the `tokenizers` library says: {error}; download it again"
            ) from None
        library.add_tokens([token.in_library() for token in self.added_tokens])
        library.encode_special_tokens = not trusted
        given = [token for token in self.added_tokens if trusted or not token.special]
        return library, own_ids(library, given, self.vocab_size)

    def _encode_repaired(self, texts: list[str]) -> list[np.ndarray]:
        encodings = self._library.encode_batch_fast(texts, add_special_tokens=False)
        rows = [np.array(encoding.ids, np.int32) for encoding in encodings]
        return rows if self._ids is None else [self._ids[row] for row in rows]

    def encode_with_offsets(self, text: str | bytes) -> tuple[list[int], list[tuple[int, int]]]:  # noqa: D102
        if self._trusted is None:
            self._trusted = self._new_library("tokenizer.json", trusted=True)
        library, ids = self._trusted
        encoding = library.encode(repair_text(text), add_special_tokens=False)
        return encoding.ids if ids is None else ids[encoding.ids].tolist(), encoding.offsets

    def normalized(self, text: str) -> str:  # noqa: D102
        normalizer = self._library.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)

    def in_graph(self) -> GraphMetaspaceTokenizer:
        """Return the same tokenizer as TensorFlow operations."""
        from tfllm.tokenizers.graph.metaspace import GraphMetaspaceTokenizer

        return GraphMetaspaceTokenizer(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._library.encode_special_tokens = True  # which does not travel

    def _tokenizer_json(self) -> dict[str, Any]:
        names = {token.id: token.content for token in self.added_tokens}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [token.to_json() for token in self.added_tokens],
            **self._content,
            "post_processor": self.framing.to_json(names),
            "model": self.model,
        }

    def _encoding_rules(self) -> Any:
        content = json.dumps({**self._content, "model": self.model}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def metaspace_of_json(
    path: Path,
    content: Mapping[str, Any],
    added: Sequence[AddedToken],
    given: Mapping[str, str],
    **conventions: Any,
) -> MetaspaceTokenizer:
    """Make the tokenizer that a `tokenizer.json` describes; arguments as those of `tokenizer_of_json`.

    Raises:
        TokenizerError: it cannot be understood.
    """
    model = _checked_model(path, content)
    pieces = vocabulary_of(model)
    taken = {i: name for name, i in pieces.items()}
    for token in added:
        if (
            pieces.get(token.content, token.id) != token.id
            or taken.get(token.id, token.content) != token.content
        ):
            raise TokenizerError(
                f"{path}: added token {token.content!r} must have an id of its own, {token.id} is that of another"
                " piece; mend the files"
            )
    whole = {**pieces, **{token.content: token.id for token in added}}
    special = {token.content: token.id for token in added if token.special}
    unknown = _unknown(model)
    given = {**({} if unknown is None else {"unk_token": unknown}), **given}
    roles = not_guessed(choose_roles(path, given, whole, special), given, added)
    special |= {name: whole[name] for name in roles.values()}
    return MetaspaceTokenizer(
        content,
        special_tokens=special,
        added_tokens=added,
        framing=read_framing(path, content.get("post_processor")),
        where=path,
        **three_roles(roles),
        **conventions,
    )


def vocabulary_of(model: Mapping[str, Any]) -> dict[str, int]:
    """Name to id of the pieces of a model."""
    if model["type"] == "BPE":
        return model["vocab"]
    return {name: i for i, (name, _) in enumerate(model["vocab"])}


def _unknown(model: Mapping[str, Any]) -> str | None:
    return model["unk_token"] if model["type"] == "BPE" else model["vocab"][model["unk_id"]][0]


def _checked_model(where: object, content: Mapping[str, Any]) -> dict[str, Any]:
    """The model with its type and all options."""
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


def _check_names(
    where: object, model: Mapping[str, Any], pieces: Mapping[str, int], special: Mapping[str, int]
) -> None:
    """Refuse special names that some text may become; in Unigram they are hidden."""
    if model["type"] == "Unigram":
        return
    made = {left + right for left, right in model["merges"]}
    for name in special:
        if name in pieces and (name in made or len(name) == 1):
            raise TokenizerError(
                f"{where}: special token {name!r} must not be a token of the text; name it like '<|bos|>', which no"
                " merge makes"
            )


def _byte_of(name: str) -> int | None:
    """The byte that a token stands for, by what the library takes for one."""
    if len(name.encode()) != 6 or not (name.startswith("<0x") and name.endswith(">")):
        return None
    digits = name[3:5]
    digits = digits.removeprefix("+")
    return int(digits, 16) if digits and all(c in "0123456789abcdefABCDEF" for c in digits) else None


def _decoded(names: Mapping[int, str], rules: MetaspaceRules) -> list[bytes]:
    """What decoding writes for each id; nothing where there is none."""
    texts = [b""] * (1 + max(names))
    for i, name in names.items():
        byte = _byte_of(name) if rules.byte_fallback else None
        for old, new in rules.replacements:
            name = name.replace(old, new)
        texts[i] = bytes([byte]) if byte is not None else (rules.separator + name).encode()
    return texts


def _opening(names: Mapping[int, str], rules: MetaspaceRules) -> Opening | None:
    """How the first token is written, where that is not as the others are."""
    if not (rules.marks_dropped or rules.separator):
        return None
    size = 1 + max(names)
    first, goes_on = [b""] * size, [True] * size  # an id without a token is passed over
    for i, name in names.items():
        first[i] = (name.replace(BLANK, "") if rules.marks_dropped else name).encode()
        goes_on[i] = False
    return Opening(tuple(first), tuple(goes_on))
