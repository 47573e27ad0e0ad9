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

from tfllm.tokenizers.added_token import AddedToken, with_special
from tfllm.tokenizers.byte_runs import ByteRuns
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.framing import Framing
from tfllm.tokenizers.opening import Opening
from tfllm.tokenizers.repair import repair_text
from tfllm.tokenizers.token_label import bytes_label

if TYPE_CHECKING:
    from tfllm.tokenizers.graph.tokenizer import GraphTokenizer

CONFIG_FILE, TOKENIZER_FILE = "tokenizer_config.json", "tokenizer.json"


class Tokenizer(ABC):
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
        framing: what the checkpoint puts around a text; by default bos before it.
        chat_template: the Jinja template that renders a chat, or several by name, one of them `default`.
        opening: how decoding differs at the start of a text; by default it does not.

    Attributes:
        vocab_size: number of ids, special tokens included.
        special_tokens: dict from name to id.
        special_ids: the ids of all special tokens.
        added_tokens: all tokens with names of their own, special ones included, by id.
        roles: dict from role, such as `bos_token`, to name.
        bos_id: id of the token that begins a document; `eos_id` and `pad_id` likewise.
        unk_id: id of the token for what cannot be written, or None; `mask_id` likewise.
        prefix_ids: ids that stand before a text in this vocabulary's checkpoint, a tuple.
        suffix_ids: those that stand behind it.
        separator_ids: those between two texts of a pair.
        chat_template: as above, None if there is none; may be set.
        unset_roles: roles that the checkpoint leaves open, played here by a token that stands in; may be set.
        shown_roles: the others, role to name: what templates see and `save` writes.
    """

    type: ClassVar[str]
    byte_runs: ByteRuns | None = None
    blanks_taken: int = 0  # how many of the blanks that begin a decoded text are left out

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
        framing: Framing | None = None,
        chat_template: str | Mapping[str, str] | None = None,
        opening: Opening | None = None,
    ):
        self.roles = {
            "bos_token": bos_token,
            "eos_token": eos_token,
            "pad_token": pad_token,
            **(other_roles or {}),
        }
        for role, name in self.roles.items():
            if name not in special_tokens:
                raise TokenizerError(
                    f"{role}={name!r} must be one of the special tokens {sorted(special_tokens)}; pass"
                    f" {role}= one of these"
                )
        self.token_bytes = tuple(token_bytes)
        self.vocab_size = len(self.token_bytes)
        self.added_tokens = with_special(added_tokens, special_tokens)
        self.special_tokens = dict(special_tokens)
        self.special_ids = frozenset(special_tokens.values())
        self.bos_token, self.eos_token, self.pad_token = bos_token, eos_token, pad_token
        self.bos_id = special_tokens[bos_token]
        self.eos_id = special_tokens[eos_token]
        self.pad_id = special_tokens[pad_token]
        self.unk_id, self.mask_id = (
            special_tokens[self.roles[role]] if role in self.roles else None
            for role in ("unk_token", "mask_token")
        )
        self.framing = Framing(prefix=(self.bos_id,)) if framing is None else framing
        self._check_framing()
        self.chat_template = chat_template
        self.unset_roles: frozenset[str] = frozenset()
        self.opening = opening

    @property
    def shown_roles(self) -> dict[str, str]:  # noqa: D102
        return {role: name for role, name in self.roles.items() if role not in self.unset_roles}

    @property
    def prefix_ids(self) -> tuple[int, ...]:  # noqa: D102
        return self.framing.prefix

    @property
    def suffix_ids(self) -> tuple[int, ...]:  # noqa: D102
        return self.framing.suffix

    @property
    def separator_ids(self) -> tuple[int, ...]:  # noqa: D102
        return self.framing.separator

    @property
    def skipped_ids(self) -> frozenset[int]:
        """The ids that decoding leaves out when it leaves special tokens out."""
        return self.special_ids

    @property
    def cut_tokens(self) -> tuple[AddedToken, ...]:
        """The added tokens that are not special: those that are cut out of plain text."""
        return tuple(token for token in self.added_tokens if not token.special)

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
    def encode_with_offsets(self, text: str | bytes) -> tuple[list[int], list[tuple[int, int]]]:
        """Encode as `encode_with_special`, and tell where each token stands.

        Args:
            text: a text, repaired first if it is not valid Unicode.

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
        return joined[: self.blanks_taken].lstrip(b" ") + joined[self.blanks_taken :]

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
            skipped = self.skipped_ids
            ids = [token_id for token_id in ids if token_id not in skipped]
        opening = self.opening.texts(ids) if self.opening is not None else []
        return ids, [*opening, *(self.token_bytes[token_id] for token_id in ids[len(opening) :])]

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text that `ids` stand for: `decode_bytes`, then repaired.

        Where a vocabulary has tokens for bytes, such as <0x0A>, each faulty one becomes a U+FFFD.
        """
        written, texts = self._texts(ids, skip_special_tokens)
        joined = b"".join(texts) if self.byte_runs is None else self.byte_runs.join(written, texts)
        text = repair_text(joined)
        return text[: self.blanks_taken].lstrip(" ") + text[self.blanks_taken :]

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
        lengths = [0 if i in self.special_ids else len(text) for i, text in enumerate(self.token_bytes)]
        return np.array(lengths, np.int32)

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

    def _check_framing(self) -> None:
        for token_id in (*self.prefix_ids, *self.suffix_ids, *self.separator_ids):
            if not 0 <= token_id < self.vocab_size:
                raise TokenizerError(
                    f"id {token_id}, which stands around texts, must be in [0, vocab_size={self.vocab_size}); mend"
                    " the post-processor"
                )


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
