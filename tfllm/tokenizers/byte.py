"""The byte tokenizer: no training, no files, ids 0..255 are the bytes of the text's UTF-8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfllm.tokenizers.special_tokens import BOS, EOS, PAD, numbered_special_tokens
from tfllm.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tfllm.tokenizers.graph_byte import GraphByteTokenizer


class ByteTokenizer(Tokenizer):
    """One id a byte: 0..255 are bytes, then come the special tokens, 256 being bos, 257 eos and 258 pad.

    Args:
        bos_token: name of the token that begins a document.
        eos_token: name of the token that ends a document.
        pad_token: name of the token that fills a row.
        extra_special_tokens: further names, such as those of a chat template.

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
    ):
        special = numbered_special_tokens(256, bos_token, eos_token, pad_token, extra_special_tokens)
        super().__init__(
            [bytes([b]) for b in range(256)] + [name.encode() for name in special],
            special_tokens=special,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
        )

    def _encode_repaired(self, texts: list[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

    def in_graph(self) -> GraphByteTokenizer:
        """Return the same tokenizer as TensorFlow operations."""
        from tfllm.tokenizers.graph_byte import GraphByteTokenizer

        return GraphByteTokenizer(self)

    @classmethod
    def load(cls, folder: str | Path, saved_config: Mapping[str, Any]) -> ByteTokenizer:
        """Read back what `save` wrote; there is no file beyond the config."""
        roles = {role: saved_config[role] for role in ("bos_token", "eos_token", "pad_token")}
        return cls(**roles, extra_special_tokens=list(saved_config["special_tokens"]))
