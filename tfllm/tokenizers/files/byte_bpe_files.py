"""Byte-level BPE tokenizers of files: from a `tokenizer.json`, or from GPT-2's own pair."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfllm.tokenizers.added_token import not_guessed
from tfllm.tokenizers.byte_bpe import ByteBPETokenizer
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.files.byte_pairs import BytePairs, read_tokenizer_json, read_vocab_and_merges
from tfllm.tokenizers.framing import Framing
from tfllm.tokenizers.roles import choose_roles, three_roles
from tfllm.tokenizers.word_split import GPT2, SPLITS


def read_byte_bpe(
    path: str | Path,
    merges_path: str | Path | None = None,
    *,
    bos_token: str | None = None,
    eos_token: str | None = None,
    pad_token: str | None = None,
) -> ByteBPETokenizer:
    """Read a byte-level BPE that is split by one of `SPLITS`, whatever its files are called.

    Padding, truncation and what a post-processor adds are left aside: `encode` gives the bare ids of the text.

    Args:
        path: a `tokenizer.json` of the `tokenizers` library; or, with `merges_path`, GPT-2's `vocab.json` (or
            `encoder.json`), a JSON object from token to id.
        merges_path: GPT-2's `merges.txt` (or `vocab.bpe`), a pair of tokens a line, the first to be merged first.
        bos_token: name of the token that begins a document; by default one of the names in use, such as `<|bos|>`,
            `<s>` or `<|endoftext|>`, that the vocabulary has. `eos_token` and `pad_token` likewise.
        eos_token: name of the token that ends a document.
        pad_token: name of the token that fills a row.

    Raises:
        TokenizerError: a file is missing, corrupt, or would not encode as `ByteBPETokenizer` does.
    """
    given = {"bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token}
    roles = {role: name for role, name in given.items() if name is not None}
    if merges_path is None:
        return byte_bpe_of_pairs(path, read_tokenizer_json(path), roles)
    vocab, merges = read_vocab_and_merges(path, merges_path)
    read = BytePairs(
        vocab, merges, (), Framing(), GPT2, ignore_merges=False, add_prefix_space=False, nfc=False
    )
    return byte_bpe_of_pairs(path, read, roles)


def byte_bpe_of_pairs(
    path: str | Path, read: BytePairs, given: Mapping[str, str], **conventions: Any
) -> ByteBPETokenizer:
    """Make the tokenizer that a file describes.

    Args:
        path: the file, to be named in errors.
        read: what it says.
        given: names by role, as other files say.
        **conventions: further arguments of `Tokenizer`.

    Raises:
        TokenizerError: it would not encode as `ByteBPETokenizer` does.
    """
    if read.split is None:
        raise TokenizerError(
            f"{path}: pre_tokenizer must split texts by one of {', '.join(SPLITS)}; take another tokenizer"
        )
    whole = {**read.vocab, **{token.content: token.id for token in read.added_tokens}}
    special = {token.content: token.id for token in read.added_tokens if token.special}
    roles = not_guessed(choose_roles(path, given, whole, special), given, read.added_tokens)
    special |= {name: whole[name] for name in roles.values()}
    return ByteBPETokenizer(
        read.vocab,
        read.merges,
        special_tokens=special,
        added_tokens=read.added_tokens,
        split=read.split.name,
        ignore_merges=read.ignore_merges,
        add_prefix_space=read.add_prefix_space,
        nfc=read.nfc,
        framing=read.framing,
        **three_roles(roles),
        **conventions,
    )
