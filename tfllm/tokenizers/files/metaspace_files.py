"""Tokenizers of a `tokenizer.json` whose vocabulary writes blanks as U+2581."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfllm.tokenizers.added_token import AddedToken, not_guessed
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.framing import read_framing
from tfllm.tokenizers.metaspace import MetaspaceTokenizer
from tfllm.tokenizers.metaspace_model import checked_model, pieces_of, unknown_of
from tfllm.tokenizers.roles import choose_roles, three_roles


def metaspace_of_json(
    path: Path,
    content: Mapping[str, Any],
    added: Sequence[AddedToken],
    given: Mapping[str, str],
    **conventions: Any,
) -> MetaspaceTokenizer:
    """Make the tokenizer that a `tokenizer.json` describes; arguments as those of `tokenizer_of_json`.

    Raises:
        TokenizerError: it cannot be understood.
    """
    model = checked_model(path, content)
    pieces = pieces_of(model)
    taken = {i: name for name, i in pieces.items()}
    for token in added:
        if (
            pieces.get(token.content, token.id) != token.id
            or taken.get(token.id, token.content) != token.content
        ):
            raise TokenizerError(
                f"{path}: added token {token.content!r} must have an id of its own, {token.id} is that of another"
                " piece; mend the files"
            )
    whole = {**pieces, **{token.content: token.id for token in added}}
    special = {token.content: token.id for token in added if token.special}
    unknown = unknown_of(model)
    given = {**({} if unknown is None else {"unk_token": unknown}), **given}
    roles = not_guessed(choose_roles(path, given, whole, special), given, added)
    special |= {name: whole[name] for name in roles.values()}
    return MetaspaceTokenizer(
        content,
        special_tokens=special,
        added_tokens=added,
        framing=read_framing(path, content.get("post_processor")),
        where=path,
        **three_roles(roles),
        **conventions,
    )
