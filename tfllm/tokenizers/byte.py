"""The byte tokenizer: no training, no files, ids 0..255 are the bytes of the text's UTF-8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from tfllm.tokenizers.byte_alphabet import BYTE_CHARACTERS
from tfllm.tokenizers.library_tokenizer import LibraryTokenizer
from tfllm.tokenizers.special_tokens import BOS, EOS, PAD, numbered_special_tokens

if TYPE_CHECKING:
    from tfllm.tokenizers.graph.byte import GraphByteTokenizer


class ByteTokenizer(LibraryTokenizer):
    """One id a byte: 0..255 are bytes, then come the special tokens, 256 being bos, 257 eos and 258 pad.

    Args:
        bos_token: name of the token that begins a document.
        eos_token: name of the token that ends a document.
        pad_token: name of the token that fills a row.
        extra_special_tokens: further names, such as those of a chat template.
        **conventions: further arguments of `Tokenizer`.

    Raises:
        TokenizerError: a name is empty or not valid Unicode.

    Example:
        >>> ByteTokenizer().encode("Hé")
        [72, 195, 169]
    """

    type = "byte"

    def __init__(
        self,
        *,
        bos_token: str = BOS,
        eos_token: str = EOS,
        pad_token: str = PAD,
        extra_special_tokens: Sequence[str] = (),
        **conventions: Any,
    ):
        special = numbered_special_tokens(256, bos_token, eos_token, pad_token, extra_special_tokens)
        super().__init__(
            [bytes([b]) for b in range(256)] + [name.encode() for name in special],
            special_tokens=special,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            **conventions,
        )
        self._set_library()

    def _encode_repaired(self, texts: list[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

    def in_graph(self) -> GraphByteTokenizer:
        """Return the same tokenizer as TensorFlow operations."""
        from tfllm.tokenizers.graph.byte import GraphByteTokenizer

        return GraphByteTokenizer(self.vocabulary, self._sought_names())

    def _new_library(self) -> tokenizers.Tokenizer:
        vocab = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}
        library = tokenizers.Tokenizer(models.BPE(vocab={**vocab, **self.special_tokens}, merges=[]))
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        library.decoder = decoders.ByteLevel()
        return library
