"""What the ids of a tokenizer stand for, and which of them play which part."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from tfllm.tokenizers.added_token import AddedToken, with_special
from tfllm.tokenizers.byte_runs import ByteRuns
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.framing import Framing
from tfllm.tokenizers.opening import Opening


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """All that decoding needs, and what stands around a text; how a text becomes ids is said by a kind's rules.

    Usually made by `of`.

    Args:
        token_bytes: the bytes each id stands for, in id order; for an added token, its name in UTF-8.
        special_tokens: name to id of every special token.
        roles: name by role: `bos_token`, `eos_token` and `pad_token`, and `unk_token`, `mask_token`, `cls_token` and
            `sep_token` where there are such. One name may play several parts, as GPT-2's does.
        added_tokens: all tokens with names of their own, special ones included, by id.
        framing: what the checkpoint puts around a text.
        opening: how decoding differs at the start of a text; None if it does not.
        byte_runs: which tokens are single bytes, and what becomes of faulty ones; None if there are none such.
        blanks_taken: how many of the blanks that begin a decoded text are left out.
        skipped_ids: the ids that decoding leaves out when it leaves special tokens out.

    Raises:
        TokenizerError: a role's name is no special token, or an id around texts is none.
    """

    token_bytes: tuple[bytes, ...]
    special_tokens: Mapping[str, int]
    roles: Mapping[str, str]
    added_tokens: tuple[AddedToken, ...]
    framing: Framing
    opening: Opening | None = None
    byte_runs: ByteRuns | None = None
    blanks_taken: int = 0
    skipped_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        for role, name in self.roles.items():
            if name not in self.special_tokens:
                raise TokenizerError(
                    f"{role}={name!r} must be one of the special tokens {sorted(self.special_tokens)}; pass"
                    f" {role}= one of these"
                )
        for token_id in (*self.framing.prefix, *self.framing.suffix, *self.framing.separator):
            if not 0 <= token_id < self.vocab_size:
                raise TokenizerError(
                    f"id {token_id}, which stands around texts, must be in [0, vocab_size={self.vocab_size}); mend"
                    " the post-processor"
                )

    @classmethod
    def of(
        cls,
        token_bytes: Sequence[bytes],
        *,
        special_tokens: Mapping[str, int],
        roles: Mapping[str, str],
        added_tokens: Iterable[AddedToken] = (),
        framing: Framing | None = None,
        skipped_ids: frozenset[int] | None = None,
        **decoding: Any,
    ) -> Vocabulary:
        """Make one, with what follows from the rest filled in; arguments as above, but for those named here.

        Args:
            token_bytes: as above.
            special_tokens: as above.
            roles: as above.
            added_tokens: those that are cut out of texts, and options of special ones.
            framing: as above; None is bos before a text.
            skipped_ids: as above; None is the special ones.
            **decoding: the others.
        """
        first = special_tokens.get(roles["bos_token"])
        if framing is None:
            framing = Framing(prefix=() if first is None else (first,))
        return cls(
            token_bytes=tuple(token_bytes),
            special_tokens=dict(special_tokens),
            roles=dict(roles),
            added_tokens=with_special(added_tokens, special_tokens),
            framing=framing,
            skipped_ids=frozenset(special_tokens.values()) if skipped_ids is None else skipped_ids,
            **decoding,
        )

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self.token_bytes)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of all special tokens."""
        return frozenset(self.special_tokens.values())

    @property
    def cut_tokens(self) -> tuple[AddedToken, ...]:
        """The added tokens that are not special: those that are cut out of plain text."""
        return tuple(token for token in self.added_tokens if not token.special)

    def id_of(self, role: str) -> int:
        """Return the id of the token that plays a role that is always played: bos, eos or pad."""
        return self.special_tokens[self.roles[role]]

    def id_or_none(self, role: str) -> int | None:
        """Return the id of the token that plays a role, None where none does."""
        return self.id_of(role) if role in self.roles else None

    def token_byte_lengths(self) -> np.ndarray:
        """Return int32 [V]: how many bytes of text each id stands for, 0 for special tokens."""
        lengths = [0 if i in self.special_ids else len(text) for i, text in enumerate(self.token_bytes)]
        return np.array(lengths, np.int32)
