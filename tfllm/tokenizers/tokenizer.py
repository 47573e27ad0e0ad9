"""The face every tokenizer shows to the rest of tfllm."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfllm.tokenizers.added_token import AddedToken
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.has_vocabulary import HasVocabulary
from tfllm.tokenizers.repair import repair_text
from tfllm.tokenizers.token_label import bytes_label
from tfllm.tokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tfllm.tokenizers.graph.tokenizer import GraphTokenizer

CONFIG_FILE, TOKENIZER_FILE = "tokenizer_config.json", "tokenizer.json"


class Tokenizer(HasVocabulary, ABC):
    """Text to token ids and back.

    `encode` never adds special tokens and never makes them out of text: "<|eos|>" in a text is seven
    characters, so a document cannot inject a control token. Callers add `prefix_ids` and `suffix_ids`, or `bos_id`
    and `eos_id`, themselves; `encode_with_special` is for texts that may hold names of special tokens.
    Added tokens that are not special, such as words of a domain, are cut out of every text.

    Args:
        token_bytes: the bytes each id stands for, in id order; for an added token, its name in UTF-8.
        special_tokens: name to id of every special token.
        bos_token: name of the token that begins a document.
        eos_token: name of the token that ends a document.
        pad_token: name of the token that fills a row. One name may play several parts, as GPT-2's does.
        other_roles: name by `unk_token`, `mask_token`, `cls_token` and `sep_token`, where there are such.
        added_tokens: tokens that are cut out of texts, and options of special ones.
        chat_template: the Jinja template that renders a chat, or several by name, one of them `default`.
        **of_vocabulary: further arguments of `Vocabulary.of`: `framing`, by default bos before a text, and how the
            kind decodes.

    Attributes:
        vocabulary: what the ids stand for, and which of them play which part.
        chat_template: as above, None if there is none; may be set.
        unset_roles: roles that the checkpoint leaves open, played here by a token that stands in; may be set.
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
        other_roles: Mapping[str, str] | None = None,
        added_tokens: Sequence[AddedToken] = (),
        chat_template: str | Mapping[str, str] | None = None,
        **of_vocabulary: Any,
    ):
        roles = {"bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token}
        self.vocabulary = Vocabulary.of(
            token_bytes,
            special_tokens=special_tokens,
            roles={**roles, **(other_roles or {})},
            added_tokens=added_tokens,
            **of_vocabulary,
        )
        self.chat_template = chat_template
        self.unset_roles: frozenset[str] = frozenset()

    @property
    def shown_roles(self) -> dict[str, str]:
        """The roles that the checkpoint does not leave open: what templates see and `save` writes."""
        return {role: name for role, name in self.roles.items() if role not in self.unset_roles}

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

    def normalized(self, text: str) -> str:
        """Return `text` as it is looked at when added tokens are looked for that are `normalized`."""
        return text

    def _sought_names(self) -> dict[str, str]:
        """Name to how it is written in normalized text, of the added tokens that are looked for there."""
        return {
            token.content: self.normalized(token.content) for token in self.added_tokens if token.normalized
        }

    @abstractmethod
    def in_graph(self) -> GraphTokenizer:
        """Return the same tokenizer as TensorFlow operations, which imports TensorFlow."""

    def encode(self, text: str | bytes) -> list[int]:
        """Return the ids of one text, without special tokens; what is not valid Unicode is repaired first."""
        return self.encode_batch([text])[0].tolist()

    def encode_with_special(self, text: str | bytes) -> list[int]:
        """Return the ids of one text in which names of special tokens stand for these tokens.

        For texts that are trusted, such as rendered chats: whoever writes the text may write control tokens. No
        token is added beyond that.
        """
        return self.encode_with_offsets(text)[0]

    @abstractmethod
    def encode_with_offsets(
        self, text: str | bytes, *, special: bool = True
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Encode as `encode_with_special`, or as `encode`, and tell where each token stands.

        Args:
            text: a text, repaired first if it is not valid Unicode.
            special: names of special tokens stand for these tokens; otherwise they are text.

        Returns:
            The ids, and for each id the place of its first character and of the one behind its last, in the
            repaired text. Tokens that share a character, being parts of it, share its place.
        """

    def decode_bytes(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> bytes:
        """Return the bytes that `ids` stand for, joined and not repaired: a part of a character stays a part.

        Args:
            ids: token ids, a list or a 1-D integer array.
            skip_special_tokens: leave special tokens out; otherwise they appear by their names.

        Raises:
            TokenizerError: an id is outside [0, vocab_size).
        """
        joined = b"".join(self._texts(ids, skip_special_tokens)[1])
        taken = self.vocabulary.blanks_taken
        return joined[:taken].lstrip(b" ") + joined[taken:]

    def _texts(self, ids: Iterable[int], skip_special_tokens: bool) -> tuple[list[int], list[bytes]]:
        """The ids that decoding writes, and what it writes for each."""
        ids = ids.tolist() if isinstance(ids, np.ndarray) else [int(token_id) for token_id in ids]
        if ids and (min(ids) < 0 or max(ids) >= self.vocab_size):
            wrong = min(ids) if min(ids) < 0 else max(ids)
            raise TokenizerError(
                f"token id {wrong} must be in [0, vocab_size={self.vocab_size}); decode with the tokenizer"
                " that encoded"
            )
        if skip_special_tokens:
            skipped = self.vocabulary.skipped_ids
            ids = [token_id for token_id in ids if token_id not in skipped]
        opening = [] if self.vocabulary.opening is None else self.vocabulary.opening.texts(ids)
        token_bytes = self.token_bytes
        return ids, [*opening, *(token_bytes[token_id] for token_id in ids[len(opening) :])]

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text that `ids` stand for: `decode_bytes`, then repaired.

        Where a vocabulary has tokens for bytes, such as <0x0A>, each faulty one becomes a U+FFFD.
        """
        written, texts = self._texts(ids, skip_special_tokens)
        runs, taken = self.vocabulary.byte_runs, self.vocabulary.blanks_taken
        joined = b"".join(texts) if runs is None else runs.join(written, texts)
        text = repair_text(joined)
        return text[:taken].lstrip(" ") + text[taken:]

    def token_label(self, token_id: int) -> str:
        r"""Return a readable label for plots: `␣the`, `⏎`, `<|bos|>`, `\xF0` for a part of a character.

        Raises:
            TokenizerError: `token_id` is outside [0, vocab_size).
        """
        self.decode_bytes([token_id])  # refuses what is no id
        if token_id in self.special_ids:
            return self.token_bytes[token_id].decode()
        return bytes_label(self.token_bytes[token_id])

    def token_byte_lengths(self) -> np.ndarray:
        """Return int32 [V]: how many bytes of text each id stands for, 0 for special tokens."""
        return self.vocabulary.token_byte_lengths()

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer into `folder`, which is made if need be; `read_tokenizer` reads it back.

        What is written is what transformers and the `tokenizers` library read: `tokenizer.json` and
        `tokenizer_config.json`, and `tokenizer.model` for SentencePiece. Those by themselves make special ids out
        of special names inside a text; only `encode_special_tokens` of the library stops that.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # A class of transformers by name might build another pre-tokenizer than the file's.
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **self.roles,
            **dict.fromkeys(self.unset_roles),
            "clean_up_tokenization_spaces": False,
        }
        if isinstance(self.chat_template, str):
            config["chat_template"] = self.chat_template
        elif self.chat_template:
            config["chat_template"] = [
                {"name": name, "template": template} for name, template in self.chat_template.items()
            ]
        _write_json(folder / CONFIG_FILE, config)
        _write_json(folder / TOKENIZER_FILE, self._tokenizer_json())

    @abstractmethod
    def _tokenizer_json(self) -> dict[str, Any]:
        """The content of `tokenizer.json`."""

    @property
    def fingerprint(self) -> str:
        """Sha256, in hexadecimal, of everything that decides the ids of texts and of special tokens.

        The chat template is not in it: it decides texts.
        """
        around = [self.prefix_ids, self.suffix_ids, self.separator_ids]
        added = [dataclasses.asdict(token) for token in self.added_tokens]
        content = [self.type, self.vocab_size, self.roles, added, around, self._encoding_rules()]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _encoding_rules(self) -> Any:
        """What beyond its added tokens decides the ids of a text; JSON-serializable."""
        return None


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
