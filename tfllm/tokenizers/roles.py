"""Which tokens begin, end, pad and mask, where a checkpoint's files say so, and where they do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.special_tokens import BOS, END_OF_TEXT, EOS, PAD

ROLES = ("bos_token", "eos_token", "pad_token", "unk_token", "mask_token", "cls_token", "sep_token")
# Names in use, tried in this order where no file gives one.
_USUAL = {
    "bos_token": (BOS, "<s>", "[CLS]", "<bos>", "<|begin_of_text|>", "<|startoftext|>"),
    "eos_token": (EOS, "</s>", "[SEP]", "<eos>", "<|end_of_text|>", END_OF_TEXT),
    "pad_token": (PAD, "<pad>", "[PAD]", END_OF_TEXT),
    "unk_token": ("<unk>", "[UNK]"),
    "mask_token": ("<mask>", "[MASK]"),
}
# Where a file names one of these, it says all there is about how texts begin and end.
_DECIDE = ("bos_token", "cls_token", "eos_token", "sep_token")
# Whose part a missing one takes.
_STAND_INS = {
    "bos_token": ("cls_token", "eos_token"),
    "eos_token": ("sep_token", "bos_token"),
    "pad_token": ("unk_token", "eos_token"),
}


def given_roles(*configs: Mapping[str, Any]) -> dict[str, str]:
    """The role names that `tokenizer_config.json` and `special_tokens_map.json` give; the first has its way."""
    roles: dict[str, str] = {}
    for config in configs:
        for role in ROLES:
            value = config.get(role)
            name = value.get("content") if isinstance(value, dict) else value
            if isinstance(name, str) and name:
                roles.setdefault(role, name)
    return roles


def unset_roles(
    played: Mapping[str, str], given: Mapping[str, str], *configs: Mapping[str, Any], own: bool = False
) -> frozenset[str]:
    """The roles of bos, eos and pad that a checkpoint leaves open, and that another token only stands in for.

    Here each is played, for rows of training need them; a chat template must not see them, and a saved folder leaves
    them open again.

    Args:
        played: Role to name, from `choose_roles`.
        given: Role to name, as files say.
        *configs: The files: a role that one of them sets to null is left open.
        own: Whether the vocabulary itself says which of its tokens begins and which ends a text.
    """
    null = {role for config in configs for role in ROLES if role in config and config[role] is None}
    decides = any(given.get(role) == played.get(role) for role in _DECIDE if role in given)
    return frozenset(
        role
        for role in ("bos_token", "eos_token", "pad_token")
        if given.get(role) != played[role]
        and (
            role in null or played[role] not in _USUAL[role] or (role != "pad_token" and decides and not own)
        )
    )


def choose_roles(
    where: object, given: Mapping[str, str], known: Iterable[str], names: Iterable[str]
) -> dict[str, str]:
    """Return the roles that are played, bos, eos and pad always among them.

    A role whose token the vocabulary lacks counts as not given: the model has no row for it.

    Args:
        where: What to name in errors.
        given: Role to name, as files say.
        known: Every token there is.
        names: The special ones.

    Raises:
        TokenizerError: nothing can begin or end a text.
    """
    known, names = frozenset(known), sorted(names)
    roles = {role: name for role, name in given.items() if name in known}
    decides = {role for role in roles if role in _DECIDE}
    for role in ("unk_token", "mask_token"):
        _usual(roles, role, known)
    if not decides:
        for role in ("bos_token", "eos_token"):
            _usual(roles, role, known)
    if "bos_token" not in roles and "cls_token" not in roles:
        # Qwen's, which config.json says and tokenizer_config.json does not; T5 begins a decoder's text with padding.
        for name in (END_OF_TEXT, "<pad>"):
            if name in known:
                roles.setdefault("bos_token", name)
    for role in ("bos_token", "eos_token"):
        _stand_in(roles, role)
    if "bos_token" not in roles or "eos_token" not in roles:
        raise TokenizerError(
            f"{where}: bos_token and eos_token must be in the vocabulary, {dict(given)} are given; name two of its"
            f" special tokens {names[:8]} in tokenizer_config.json"
        )
    _usual(roles, "pad_token", known)
    _stand_in(roles, "pad_token")
    return roles


def three_roles(roles: Mapping[str, str]) -> dict[str, Any]:
    """The roles as arguments of `Tokenizer`: bos, eos and pad by name, the others together."""
    main = {role: roles[role] for role in ("bos_token", "eos_token", "pad_token")}
    return {**main, "other_roles": {role: name for role, name in roles.items() if role not in main}}


def encoder_roles(frame: str, bos_token: str, eos_token: str) -> dict[str, str]:
    """The further roles of the tokens around a text, where `frame` has both, as in BERT and RoBERTa."""
    return {"cls_token": bos_token, "sep_token": eos_token} if frame == "bos_eos" else {}


def _usual(roles: dict[str, str], role: str, known: frozenset[str]) -> None:
    found = next((name for name in _USUAL[role] if name in known), None)
    if found is not None:
        roles.setdefault(role, found)


def _stand_in(roles: dict[str, str], role: str) -> None:
    found = next((roles[other] for other in _STAND_INS[role] if other in roles), None)
    if found is not None:
        roles.setdefault(role, found)
