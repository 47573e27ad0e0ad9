"""Tokens that are cut out of a text before it is tokenized, and those that control a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tokenizers

from tfllm.tokenizers.errors import TokenizerError


@dataclasses.dataclass(frozen=True)
class AddedToken:
    """A token with a name of its own, as `added_tokens` of a `tokenizer.json` lists them.

    Args:
        content: Its name.
        id: Its id.
        special: It controls the model, and never comes out of plain text; else it is cut out of any text.
        lstrip: It takes the white space before it.
        rstrip: It takes the white space behind it.
        single_word: It is cut out only where no letter or digit stands beside it.
        normalized: It is looked for in the normalized text, not in the text as it came.
    """

    content: str
    id: int
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False

    def in_library(self) -> tokenizers.AddedToken:
        """The same for the `tokenizers` library."""
        options = {
            name: value for name, value in dataclasses.asdict(self).items() if name not in ("content", "id")
        }
        return tokenizers.AddedToken(self.content, **options)

    def to_json(self) -> dict[str, Any]:
        """The same as an object of `added_tokens`."""
        return dataclasses.asdict(self)


# Tables are as long as the highest id; the largest published vocabularies have a quarter of a million tokens.
MOST_IDS = 1 << 22
_OPTIONS = ("special", "lstrip", "rstrip", "single_word", "normalized")


def not_guessed(
    roles: Mapping[str, str], given: Mapping[str, str], added: Iterable[AddedToken]
) -> dict[str, str]:
    """The roles without a mask or an unknown token that no file names and that files call an ordinary token."""
    plain = {token.content for token in added if not token.special}
    guessed = {role for role in ("mask_token", "unk_token") if role not in given}
    return {role: name for role, name in roles.items() if role not in guessed or name not in plain}


def written_names(
    named: Mapping[str, int], added: Iterable[AddedToken], normalize: Callable[[str], str]
) -> dict[int, str]:
    """By id, the names that decoding writes: the library writes a token that is looked for in normalized text so."""
    written = {token_id: name for name, token_id in named.items()}
    return written | {token.id: normalize(token.content) for token in added if token.normalized}


def read_added_tokens(where: object, listed: Iterable[Any]) -> tuple[AddedToken, ...]:
    """Read the objects of an `added_tokens` list, in the order of their ids.

    Args:
        where: What to name in errors.
        listed: Mappings with `content`, `id` and options.

    Raises:
        TokenizerError: one is malformed, or two share an id or a name.
    """
    tokens: dict[str, AddedToken] = {}
    ids: dict[int, str] = {}
    if isinstance(listed, (int, float, str)):
        raise TokenizerError(f"{where}: added tokens must be a list, not {listed!r}; download the file again")
    for item in listed:
        try:
            name, token_id = item["content"], item["id"]
            options = {option: bool(item.get(option, False)) for option in _OPTIONS}
        except (KeyError, TypeError, AttributeError) as error:
            raise TokenizerError(
                f"{where}: each added token must be an object with content and id ({error!r}), not {item!r};"
                " write the file again from the tokenizer it came from"
            ) from None
        check_name_and_id(where, name, token_id)
        if tokens.get(name, AddedToken(name, token_id)).id != token_id or ids.get(token_id, name) != name:
            raise TokenizerError(
                f"{where}: added token {name!r} with id {token_id} must be one of a kind, it is also"
                f" {ids.get(token_id, name)!r} with id {tokens[name].id if name in tokens else token_id}; remove one"
            )
        tokens[name], ids[token_id] = AddedToken(name, token_id, **options), name
    return tuple(sorted(tokens.values(), key=lambda token: token.id))


def check_name_and_id(where: object, name: Any, token_id: Any) -> None:
    """Raise TokenizerError unless these can be a token's name and id."""
    if not isinstance(name, str) or not name or any(0xD800 <= ord(c) < 0xE000 for c in name):
        raise TokenizerError(f"{where}: token {name!r} must be non-empty valid text; name it like '<|bos|>'")
    if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < MOST_IDS:
        raise TokenizerError(
            f"{where}: id {token_id!r} of {name!r} must be an integer from 0 to {MOST_IDS - 1}; mend the file"
        )


def with_special(added: Iterable[AddedToken], special: Mapping[str, int]) -> tuple[AddedToken, ...]:
    """The added tokens, with `special` among them: those of that name become special, others are put in."""
    known = {token.content: token for token in added}
    for name, token_id in special.items():
        token = known.get(name, AddedToken(name, token_id))
        known[name] = dataclasses.replace(token, special=True)
    return tuple(sorted(known.values(), key=lambda token: token.id))
