"""Tokens that end a text, by the names that a config gives them and by their ids."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from tfllm.generation.errors import GenerationError
from tfllm.tokenizers import Tokenizer

_BY_ID = re.compile(r"id:(\d+)")


def stop_ids(tokenizer: Tokenizer | None, stop_tokens: Sequence[str] = ()) -> list[int]:
    """Ids of the tokens that end a text: those that end, begin and pad documents, and those named.

    Raises:
        GenerationError: when a name is not that of a token.
    """
    own = [] if tokenizer is None else [tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id]
    return sorted({*own, *named_ids(tokenizer, stop_tokens)})


def named_ids(tokenizer: Tokenizer | None, stop_tokens: Iterable[str]) -> list[int]:
    """Ids of tokens by name: of a special or added token, a text that is one token, or `id:N`.

    Raises:
        GenerationError: when a name is none of these.
    """
    return [_id_of(tokenizer, name) for name in stop_tokens]


def names_of_ids(tokenizer: Tokenizer | None, ids: Iterable[int]) -> list[str]:
    """The names that `named_ids` reads back; without a tokenizer the ids themselves."""
    return [_name_of(tokenizer, token_id) for token_id in ids]


def _id_of(tokenizer: Tokenizer | None, name: str) -> int:
    by_id = _BY_ID.fullmatch(name)
    if tokenizer is None:
        if by_id is None:
            raise GenerationError(f"generation.stop_tokens: {name!r} needs a tokenizer; write id:N")
        return int(by_id[1])
    known = {**{token.content: token.id for token in tokenizer.added_tokens}, **tokenizer.special_tokens}
    if name in known:
        return known[name]
    if by_id is not None and int(by_id[1]) < tokenizer.vocab_size:
        return int(by_id[1])
    ids = tokenizer.encode(name) if name else []
    if len(ids) == 1:
        return ids[0]
    near = difflib.get_close_matches(name, known, 3, 0.0)
    raise GenerationError(
        f"generation.stop_tokens: {name!r} is not a special token, nor any other that stands alone; there are for"
        f" example {', '.join(near)}"
    )


def _name_of(tokenizer: Tokenizer | None, token_id: int) -> str:
    if tokenizer is None:
        return f"id:{token_id}"
    for name, known in tokenizer.special_tokens.items():
        if known == token_id:
            return name
    for token in tokenizer.added_tokens:
        if token.id == token_id:
            return token.content
    text = tokenizer.decode([token_id])
    alone = bool(text) and not _BY_ID.fullmatch(text) and tokenizer.encode(text) == [token_id]
    return text if alone else f"id:{token_id}"
