"""Marian's tokenizer of a checkpoint: from `source.spm`, `target.spm` and `vocab.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.files.json_file import read_json_object
from tfllm.tokenizers.framing import Framing
from tfllm.tokenizers.marian import ROLES, SOURCE_FILE, TARGET_FILE, VOCAB_FILE, MarianTokenizer
from tfllm.tokenizers.roles import choose_roles, three_roles

_MEND = "download it again"


def marian_of_files(
    folder: Path, config: Mapping[str, Any], given: Mapping[str, str], **conventions: Any
) -> MarianTokenizer:
    """Read Marian's three files, with what stands beside them.

    Args:
        folder: where they are.
        config: what `tokenizer_config.json` says.
        given: names by role.
        **conventions: further arguments of `Tokenizer`.

    Raises:
        TokenizerError: a file is missing or damaged, or the languages have vocabularies of their own.
    """
    if config.get("separate_vocabs"):
        raise TokenizerError(
            f"{folder}: separate_vocabs=true must be false, one vocabulary for both languages; take another checkpoint"
        )
    models = []
    for name in (SOURCE_FILE, TARGET_FILE):
        try:
            models.append((folder / name).read_bytes())
        except OSError as error:
            raise TokenizerError(
                f"{folder / name}: must be a readable file ({error.strerror}); {_MEND}"
            ) from None
    path = folder / VOCAB_FILE
    vocab = read_json_object(path, mend=_MEND)
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in vocab.values()):
        raise TokenizerError(f"{path}: must map each piece to an integer id; {_MEND}")
    given = {**ROLES, **given}
    for role in ROLES:
        if given[role] not in vocab:
            raise TokenizerError(f"{path}: {role}={given[role]!r} must be in the vocabulary; {_MEND}")
    plain = [
        token.get("content")
        for token in (config.get("added_tokens_decoder") or {}).values()
        if isinstance(token, dict) and not token.get("special")
    ]
    if plain:
        raise TokenizerError(f"{folder}: added token {plain[0]!r} must be special, or left out")
    roles = choose_roles(path, given, vocab, given.values())
    special = {name: vocab[name] for name in roles.values()}
    eos = (special[roles["eos_token"]],)
    return MarianTokenizer(
        models[0],
        models[1],
        vocab,
        special_tokens=special,
        framing=Framing((), eos, ()),
        **three_roles(roles),
        **conventions,
    )
