"""Vocabularies that write blanks as U+2581, as a `tokenizer.json` has them, on the `tokenizers` library."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tokenizers

from tfllm.tokenizers.added_token import AddedToken, written_names
from tfllm.tokenizers.bpe_vocab import check_ids
from tfllm.tokenizers.byte_runs import ByteRuns
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.library_tokenizer import LibraryTokenizer
from tfllm.tokenizers.metaspace_model import check_special_names, checked_model, pieces_of
from tfllm.tokenizers.metaspace_rules import MetaspaceRules, normalizer_of, read_rules
from tfllm.tokenizers.opening import Opening
from tfllm.tokenizers.sentencepiece_model import BLANK

if TYPE_CHECKING:
    from tfllm.tokenizers.graph.metaspace import GraphMetaspaceTokenizer


class MetaspaceTokenizer(LibraryTokenizer):
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
        self.model = checked_model(where, content)
        self._content = {key: content.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")}
        self.pieces = pieces_of(self.model)
        named = {token.content: token.id for token in added_tokens} | dict(special_tokens)
        check_special_names(where, self.model, special_tokens)
        if self.rules.leaves_blanks and self.model["type"] == "Unigram":
            raise TokenizerError(
                f"{where}: normalizer={content.get('normalizer')!r} must write all blanks as U+2581, none may come"
                " later; take another tokenizer"
            )
        whole = {**self.pieces, **named}
        check_ids(whole)
        names = written_names(whole, added_tokens, normalizer_of(where, content))
        texts, bytes_ = _decoded(names, self.rules)
        super().__init__(
            texts,
            special_tokens=special_tokens,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            added_tokens=added_tokens,
            opening=_opening(names, self.rules),
            byte_runs=ByteRuns(bytes_, whole=True) if bytes_ else None,
            blanks_taken=self.rules.blanks_taken,
            **conventions,
        )
        self._where: object = where
        self._set_library()

    def _new_library(self) -> tokenizers.Tokenizer:
        return self._library_of(self.model)

    def _plain_library(self) -> tokenizers.Tokenizer:
        model = self.model
        if (
            model["type"] == "Unigram"
        ):  # else it would find special names in texts; no text holds a blank then
            vocab = [
                [f" {i}" if name in self.special_tokens else name, score]
                for i, (name, score) in enumerate(model["vocab"])
            ]
            model = {**model, "vocab": vocab}
        library = self._library_of(model)
        library.add_tokens([token.in_library() for token in self.added_tokens])
        library.encode_special_tokens = True
        return library

    def _library_of(self, model: Mapping[str, Any]) -> tokenizers.Tokenizer:
        content = {"version": "1.0", **self._content, "model": model}
        try:
            return tokenizers.Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
        except Exception as error:  # the library raises no narrower one
            raise TokenizerError(
                f"{self._where}: model must be well formed, the `tokenizers` library says: {error}; download it again"
            ) from None

    def normalized(self, text: str) -> str:  # noqa: D102
        normalizer = self._library.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)

    def in_graph(self) -> GraphMetaspaceTokenizer:
        """Return the same tokenizer as TensorFlow operations."""
        from tfllm.tokenizers.graph.metaspace import GraphMetaspaceTokenizer

        return GraphMetaspaceTokenizer(self.vocabulary, self._sought_names(), self.rules, self.model)

    def _tokenizer_json(self) -> dict[str, Any]:
        names = {token.id: token.content for token in self.added_tokens}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [token.to_json() for token in self.added_tokens],
            **self._content,
            "post_processor": self.vocabulary.framing.to_json(names),
            "model": self.model,
        }

    def _encoding_rules(self) -> Any:
        content = json.dumps({**self._content, "model": self.model}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def _byte_of(name: str) -> int | None:
    """The byte that a token stands for, by what the library takes for one."""
    if len(name.encode()) != 6 or not (name.startswith("<0x") and name.endswith(">")):
        return None
    digits = name[3:5]
    digits = digits.removeprefix("+")
    return int(digits, 16) if digits and all(c in "0123456789abcdefABCDEF" for c in digits) else None


def _decoded(names: Mapping[int, str], rules: MetaspaceRules) -> tuple[list[bytes], frozenset[int]]:
    """What decoding writes for each id, nothing where there is none; and which ids it takes for bytes."""
    texts, bytes_ = [b""] * (1 + max(names)), set()
    for i, name in names.items():
        for old, new in rules.replacements:
            name = name.replace(old, new)
        byte = _byte_of(name) if rules.byte_fallback else None
        texts[i] = (rules.separator + name).encode() if byte is None else bytes([byte])
        if byte is not None:
            bytes_.add(i)
    return texts, frozenset(bytes_)


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
