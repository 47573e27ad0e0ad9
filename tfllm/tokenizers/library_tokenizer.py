"""Tokenizers whose offline half is the `tokenizers` library."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tokenizers

from tfllm.tokenizers.added_token import AddedToken
from tfllm.tokenizers.repair import repair_text
from tfllm.tokenizers.tokenizer import Tokenizer


class LibraryTokenizer(Tokenizer):
    """A tokenizer that the library can stand for as a whole.

    A kind that encodes by it sets `_library` and `_ids` at the end of its constructor, by `_set_library`.
    """

    _library: tokenizers.Tokenizer  # to which names of special tokens are text
    _ids: np.ndarray | None  # our ids by its ids, None where all are the same
    _trusted: _Trusted | None = None  # made when first asked for

    @abstractmethod
    def _new_library(self) -> tokenizers.Tokenizer:
        """The same in the library, without added tokens."""

    def _set_library(self) -> None:
        self._library = self._plain_library()
        self._ids = own_ids(self._library, self.cut_tokens, self.vocab_size)

    def _encode_repaired(self, texts: list[str]) -> list[np.ndarray]:
        encodings = self._library.encode_batch_fast(texts, add_special_tokens=False)
        rows = [np.array(encoding.ids, np.int32) for encoding in encodings]
        return rows if self._ids is None else [self._ids[row] for row in rows]

    def encode_with_offsets(  # noqa: D102
        self, text: str | bytes, *, special: bool = True
    ) -> tuple[list[int], list[tuple[int, int]]]:
        if not special:
            return _encoded(self._library, self._ids, text)
        if self._trusted is None:
            library = self._library_with_added()
            self._trusted = _Trusted(library, own_ids(library, self.added_tokens, self.vocab_size))
        return _encoded(self._trusted.library, self._trusted.ids, text)

    def _library_with_added(self) -> tokenizers.Tokenizer:
        """One that takes names of special tokens for these tokens."""
        library = self._new_library()
        # They get the ids that their names have in the model's vocabulary, or others: see `own_ids`.
        library.add_tokens([token.in_library() for token in self.added_tokens])
        return library

    def _plain_library(self) -> tokenizers.Tokenizer:
        """One to which names of special tokens are text."""
        if not self.cut_tokens:
            return self._new_library()
        library = self._library_with_added()
        library.encode_special_tokens = True
        return library

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        library = state.get("_library")
        if library is not None:  # that special names are text to it does not travel
            library.encode_special_tokens = True

    def _tokenizer_json(self) -> dict[str, Any]:
        content = json.loads(self._library_with_added().to_str())
        names = {token.id: token.content for token in self.added_tokens}
        content["post_processor"] = self.vocabulary.framing.to_json(names)
        return content


class _Trusted(NamedTuple):
    """A library's tokenizer that takes names of special tokens for these tokens, and our ids by its ids."""

    library: tokenizers.Tokenizer
    ids: np.ndarray | None


def _encoded(
    library: tokenizers.Tokenizer, ids: np.ndarray | None, text: str | bytes
) -> tuple[list[int], list[tuple[int, int]]]:
    encoding = library.encode(repair_text(text), add_special_tokens=False)
    return encoding.ids if ids is None else ids[encoding.ids].tolist(), encoding.offsets


def own_ids(
    library: tokenizers.Tokenizer, tokens: Sequence[AddedToken], vocab_size: int
) -> np.ndarray | None:
    """Our ids by the library's, which numbers tokens that are not in a model's vocabulary itself.

    Args:
        library: A tokenizer that got the tokens.
        tokens: Those that it may give.
        vocab_size: How many ids we have.

    Returns:
        int32 [M], None where all are the same.
    """
    theirs = {token.id: int(library.token_to_id(token.content) or 0) for token in tokens}
    if all(own == their for own, their in theirs.items()):
        return None
    ids = np.arange(max(vocab_size, 1 + max(theirs.values())), dtype=np.int32)
    for own, their in theirs.items():
        ids[their] = own
    return ids
