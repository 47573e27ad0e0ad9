"""The face every tokenizer shows to the rest of tfllm."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfllm.tokenizers.repair import repair_text
from tfllm.tokenizers.token_label import bytes_label

if TYPE_CHECKING:
    from tfllm.tokenizers.graph_tokenizer import GraphTokenizer

CONFIG_FILE = "tokenizer_config.json"


class TokenizerError(ValueError):
    """A tokenizer could not be made, read or used as asked; the message names value, rule and mend."""


class Tokenizer(ABC):
    """Text to token ids and back.

    `encode` never adds special tokens and never makes them out of text: "<|eos|>" in a text is seven
    characters, so a document cannot inject a control token. Callers add `bos_id` and `eos_id` themselves.

    Args:
        token_bytes: the bytes each id stands for, in id order; for a special token, its name in UTF-8.
        special_tokens: name to id of every special token.
        bos_token: name of the token that begins a document.
        eos_token: name of the token that ends a document.
        pad_token: name of the token that fills a row. One name may play several parts, as GPT-2's does.

    Attributes:
        vocab_size: number of ids, special tokens included.
        special_tokens: dict from name to id.
        special_ids: the ids of all special tokens.
    """

    type: ClassVar[str]

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        *,
        special_tokens: Mapping[str, int],
        bos_token: str,
        eos_token: str,
        pad_token: str,
    ):
        for role, name in (("bos_token", bos_token), ("eos_token", eos_token), ("pad_token", pad_token)):
            if name not in special_tokens:
                raise TokenizerError(
                    f"{role}={name!r} must be one of the special tokens {sorted(special_tokens)}; pass"
                    f" {role}= one of these"
                )
        self.token_bytes = tuple(token_bytes)
        self.vocab_size = len(self.token_bytes)
        self.special_tokens = dict(special_tokens)
        self.special_ids = frozenset(special_tokens.values())
        self.bos_token, self.eos_token, self.pad_token = bos_token, eos_token, pad_token
        self.bos_id = special_tokens[bos_token]
        self.eos_id = special_tokens[eos_token]
        self.pad_id = special_tokens[pad_token]

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """Encode many texts at once.

        Args:
            texts: texts, or UTF-8 bytes; what is not valid Unicode is repaired (see `repair_text`).

        Returns:
            One int32 array a text, without special tokens.

        Raises:
            TokenizerError: `texts` is a single text.
            TypeError: one of `texts` is neither str nor bytes.
        """
        if isinstance(texts, str | bytes):
            raise TokenizerError(
                f"texts must be a sequence of texts, not one {type(texts).__name__}; pass [text], or use"
                " encode"
            )
        return self._encode_repaired([repair_text(text) for text in texts])

    @abstractmethod
    def _encode_repaired(self, texts: list[str]) -> list[np.ndarray]:
        """Encode texts that are valid Unicode, each to an int32 array."""

    @abstractmethod
    def in_graph(self) -> GraphTokenizer:
        """Return the same tokenizer as TensorFlow operations, which imports TensorFlow."""

    def encode(self, text: str | bytes) -> list[int]:
        """Return the ids of one text, without special tokens; what is not valid Unicode is repaired first."""
        return self.encode_batch([text])[0].tolist()

    def decode_bytes(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> bytes:
        """Return the bytes that `ids` stand for, joined and not repaired: a part of a character stays a part.

        Args:
            ids: token ids, a list or a 1-D integer array.
            skip_special_tokens: leave special tokens out; otherwise they appear by their names.

        Raises:
            TokenizerError: an id is outside [0, vocab_size).
        """
        ids = ids.tolist() if isinstance(ids, np.ndarray) else [int(token_id) for token_id in ids]
        if ids and (min(ids) < 0 or max(ids) >= self.vocab_size):
            wrong = min(ids) if min(ids) < 0 else max(ids)
            raise TokenizerError(
                f"token id {wrong} must be in [0, vocab_size={self.vocab_size}); decode with the tokenizer"
                " that encoded"
            )
        skipped = self.special_ids if skip_special_tokens else frozenset()
        return b"".join(self.token_bytes[token_id] for token_id in ids if token_id not in skipped)

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text that `ids` stand for: `decode_bytes`, then repaired."""
        return repair_text(self.decode_bytes(ids, skip_special_tokens=skip_special_tokens))

    def token_label(self, token_id: int) -> str:
        r"""Return a readable label for plots: `␣the`, `⏎`, `<|bos|>`, `\xF0` for a part of a character.

        Raises:
            TokenizerError: `token_id` is outside [0, vocab_size).
        """
        if token_id in self.special_ids:
            return self.decode_bytes([token_id], skip_special_tokens=False).decode()
        return bytes_label(self.decode_bytes([token_id]))

    def token_byte_lengths(self) -> np.ndarray:
        """Return int32 [V]: how many bytes of text each id stands for, 0 for special tokens."""
        lengths = [0 if i in self.special_ids else len(text) for i, text in enumerate(self.token_bytes)]
        return np.array(lengths, np.int32)

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer into `folder`, which is made if need be; `load_tokenizer` reads it back."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self._saved_config(), indent=2, ensure_ascii=False)
        (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    @abstractmethod
    def load(cls, folder: str | Path, saved_config: Mapping[str, Any]) -> Tokenizer:
        """Read back what `save` wrote; `saved_config` is the content of `tokenizer_config.json`."""

    @property
    def fingerprint(self) -> str:
        """Sha256, in hexadecimal, of everything that decides the ids of texts and of special tokens."""
        content = json.dumps([self._saved_config(), self._encoding_rules()], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def _saved_config(self) -> dict[str, Any]:
        return {
            "type": self.type,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "pad_token": self.pad_token,
            "special_tokens": self.special_tokens,
        }

    def _encoding_rules(self) -> Any:
        """What, beyond the saved config, decides the ids of a text; JSON-serializable."""
        return None
