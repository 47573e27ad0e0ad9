"""What makes a byte-level BPE vocabulary and its merges sound."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfllm.tokenizers.byte_alphabet import BYTE_CHARACTERS, token_to_bytes
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.special_tokens import check_special_name

# A token is made of two in as many ways as it has places to cut; most published vocabularies list one, Gemma's all.
_MERGES_A_TOKEN = 16
PRINTABLE = tuple(BYTE_CHARACTERS[0x20:0x7F])


def check_vocab(
    whole: Mapping[str, int],
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    special_tokens: Mapping[str, int],
) -> None:
    """Check that a byte-level BPE can encode text with these, one way only.

    Bytes that are rare in text may be missing, as SmolLM2's vocabulary misses some control characters; they
    are dropped.

    Args:
        whole: token to id, special tokens included.
        vocab: token to id; special tokens may be included.
        merges: pairs of tokens.
        special_tokens: name to id.

    Raises:
        TokenizerError: a printable character or a merge's token is missing, two tokens share an id, or a special
            name is a token of the text.
    """
    missing = [c for c in PRINTABLE if c not in vocab]
    if missing:
        raise TokenizerError(
            f"the vocabulary must hold the characters of printable ASCII in GPT-2's byte alphabet; missing:"
            f" {missing[:5]}; take a byte-level vocabulary"
        )
    if len(merges) > _MERGES_A_TOKEN * len(vocab) + 1024:
        raise TokenizerError(
            f"{len(merges)} merges must be no more than {_MERGES_A_TOKEN} for each of {len(vocab)} tokens; take merges"
            " and vocabulary of one training"
        )
    for left, right in merges:
        for token in (left, right, left + right):
            if token not in vocab:
                raise TokenizerError(
                    f"merge {left!r} {right!r}: {token!r} must be in the vocabulary; take merges and"
                    " vocabulary of one training"
                )
    ordinary = {left + right for left, right in merges} | set(BYTE_CHARACTERS)
    for name, token_id in special_tokens.items():
        check_special_name(name)
        if name in ordinary or vocab.get(name, token_id) != token_id:
            raise TokenizerError(
                f"special token {name!r} must not be a token of the text; name it like '<|bos|>', which no"
                " merge makes"
            )
    check_ids(whole)


def check_ids(whole: Mapping[str, int]) -> None:
    """Check that no two tokens share an id, and that there are not more holes between the ids than ids.

    Raises:
        TokenizerError: they do, or there are.
    """
    token_of: dict[int, str] = {}
    for token, token_id in whole.items():
        if token_id < 0 or token_id in token_of:
            raise TokenizerError(
                f"id {token_id} of {token!r} must be from 0 on and no other token's, it is also that of"
                f" {token_of.get(token_id)!r}; number the tokens anew"
            )
        token_of[token_id] = token
    if max(token_of) >= 2 * len(whole) + 1024:
        raise TokenizerError(
            f"ids must be about 0..{len(whole) - 1}, a few missing ones are filled with unused tokens; the highest"
            f" is {max(token_of)}; number the tokens without gaps"
        )


def ordinary_bytes(token: str) -> bytes:
    """Return the bytes of a token that is not special; TokenizerError if it is not in the byte alphabet."""
    try:
        return token_to_bytes(token)
    except KeyError as error:
        raise TokenizerError(
            f"token {token!r} must be written in GPT-2's byte alphabet, {chr(error.args[0])!r} is not in it;"
            " mark the token as special, or take a byte-level vocabulary"
        ) from error


def named_bytes(name: str) -> bytes:
    """Return the bytes of a token with a name of its own: the library decodes one that can be written in the byte
    alphabet, such as 'café', as if it were.
    """
    try:
        return token_to_bytes(name)
    except KeyError:
        return name.encode()


def pairs(merges: Iterable[Any]) -> list[tuple[str, str]]:
    """Read merges, each a pair or "a b"; ValueError if one is neither."""
    # Files before version 0.20 of the library write a pair as "a b"; a byte-level token has no space in it.
    read: list[Any] = [
        tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges
    ]
    for pair in read:
        if len(pair) != 2 or not (pair[0] and pair[1] and type(pair[0]) is type(pair[1]) is str):
            raise ValueError(f"not a pair: {pair!r}"[:300])
    return read
