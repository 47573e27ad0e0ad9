"""What can be asked of a vocabulary, asked of whatever has one: a tokenizer, and the same tokenizer in a graph."""

from __future__ import annotations

from collections.abc import Mapping

from tfllm.tokenizers.added_token import AddedToken
from tfllm.tokenizers.vocabulary import Vocabulary


class HasVocabulary:
    """Has a vocabulary.

    Attributes:
        vocabulary: what the ids stand for, and which of them play which part.
    """

    vocabulary: Vocabulary

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self.vocabulary.vocab_size

    @property
    def token_bytes(self) -> tuple[bytes, ...]:
        """The bytes each id stands for, in id order."""
        return self.vocabulary.token_bytes

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Name to id of every special token."""
        return self.vocabulary.special_tokens

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids of all special tokens."""
        return self.vocabulary.special_ids

    @property
    def added_tokens(self) -> tuple[AddedToken, ...]:
        """All tokens with names of their own, special ones included, by id."""
        return self.vocabulary.added_tokens

    @property
    def cut_tokens(self) -> tuple[AddedToken, ...]:
        """The added tokens that are not special: those that are cut out of plain text."""
        return self.vocabulary.cut_tokens

    @property
    def roles(self) -> Mapping[str, str]:
        """Name by role, such as `bos_token`."""
        return self.vocabulary.roles

    @property
    def bos_id(self) -> int:
        """Id of the token that begins a document."""
        return self.vocabulary.id_of("bos_token")

    @property
    def eos_id(self) -> int:
        """Id of the token that ends a document."""
        return self.vocabulary.id_of("eos_token")

    @property
    def pad_id(self) -> int:
        """Id of the token that fills a row."""
        return self.vocabulary.id_of("pad_token")

    @property
    def unk_id(self) -> int | None:
        """Id of the token for what cannot be written, None if there is none."""
        return self.vocabulary.id_or_none("unk_token")

    @property
    def mask_id(self) -> int | None:
        """Id of the token that hides another one, None if there is none."""
        return self.vocabulary.id_or_none("mask_token")

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """Ids that stand before a text in this vocabulary's checkpoint."""
        return self.vocabulary.framing.prefix

    @property
    def suffix_ids(self) -> tuple[int, ...]:
        """Ids that stand behind a text in this vocabulary's checkpoint."""
        return self.vocabulary.framing.suffix

    @property
    def separator_ids(self) -> tuple[int, ...]:
        """Ids that stand between two texts of a pair."""
        return self.vocabulary.framing.separator

    @property
    def bos_token(self) -> str:
        """Name of the token that begins a document."""
        return self.roles["bos_token"]

    @property
    def eos_token(self) -> str:
        """Name of the token that ends a document."""
        return self.roles["eos_token"]

    @property
    def pad_token(self) -> str:
        """Name of the token that fills a row."""
        return self.roles["pad_token"]
