"""Tokenizers whose offline half is the `tokenizers` library."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers

from tfllm.tokenizers.added_token import AddedToken
from tfllm.tokenizers.repair import repair_text
from tfllm.tokenizers.tokenizer import Tokenizer


class LibraryTokenizer(Tokenizer):
    """A tokenizer that the library can stand for as a whole."""

    @abstractmethod
    def _new_library(self) -> tokenizers.Tokenizer:
        """The same in the library, without added tokens."""

    def encode_with_offsets(self, text: str | bytes) -> tuple[list[int], list[tuple[int, int]]]:  # noqa: D102
        encoding = self._special_library.encode(repair_text(text), add_special_tokens=False)
        ids = own_ids(self._special_library, self.added_tokens, self.vocab_size)
        return encoding.ids if ids is None else ids[encoding.ids].tolist(), encoding.offsets

    @property
    def _special_library(self) -> tokenizers.Tokenizer:
        """One that takes names of special tokens for these tokens; made when first asked for."""
        if self._made is None:
            self._made = self._library_with_added()
        return self._made

    _made: tokenizers.Tokenizer | None = None

    def _library_with_added(self) -> tokenizers.Tokenizer:
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
        content["post_processor"] = self.framing.to_json(names)
        return content


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
