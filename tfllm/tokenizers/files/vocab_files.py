"""Vocabularies in files of their own, as checkpoints had them before `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfllm.tokenizers.added_token import AddedToken, read_added_tokens
from tfllm.tokenizers.byte_bpe import ByteBPETokenizer
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.files.byte_bpe_files import byte_bpe_of_pairs
from tfllm.tokenizers.files.byte_pairs import BytePairs, read_vocab_and_merges
from tfllm.tokenizers.files.tokenizer_json import config_tokens
from tfllm.tokenizers.files.wordpiece_files import BERT_ROLES, wordpiece_of_vocab
from tfllm.tokenizers.framing import Framing
from tfllm.tokenizers.word_split import GPT2, SPLITS
from tfllm.tokenizers.wordpiece import WordPieceTokenizer

# Classes of transformers whose vocabulary is split otherwise than GPT-2's, and those that frame texts.
_QWEN2 = ("Qwen2Tokenizer", "Qwen2TokenizerFast")
_FRAMED = ("Roberta", "Bart", "Longformer", "LED", "Blenderbot")


def bpe_of_files(
    folder: Path,
    config: Mapping[str, Any],
    added: Mapping[str, Any],
    given: Mapping[str, str],
    **conventions: Any,
) -> ByteBPETokenizer:
    """Read GPT-2's pair of files, `vocab.json` and `merges.txt`, with what stands beside them.

    Args:
        folder: where they are.
        config: what `tokenizer_config.json` says.
        added: what `added_tokens.json` says, name to id.
        given: names by role.
        **conventions: further arguments of `Tokenizer`.

    Raises:
        TokenizerError: a file is corrupt.
    """
    path = folder / "vocab.json"
    vocab, merges = read_vocab_and_merges(path, folder / "merges.txt")
    kind = str(config.get("tokenizer_class"))
    qwen2, framed = kind in _QWEN2, kind.startswith(_FRAMED)
    tokens = _added(folder, config, added, [*given.values(), *(("<mask>",) if framed else ())], vocab)
    ids = {**vocab, **{token.content: token.id for token in tokens}}
    framing = Framing()
    if framed:
        first, last = ids[given.get("cls_token", "<s>")], ids[given.get("sep_token", "</s>")]
        framing = Framing((first,), (last,), (last, last))
    read = BytePairs(
        vocab,
        merges,
        tokens,
        framing,
        SPLITS["qwen2"] if qwen2 else GPT2,
        ignore_merges=False,
        add_prefix_space=bool(config.get("add_prefix_space", False)),
        nfc=qwen2,
    )
    return byte_bpe_of_pairs(path, read, given, **conventions)


def wordpiece_of_file(
    folder: Path,
    config: Mapping[str, Any],
    added: Mapping[str, Any],
    given: Mapping[str, str],
    **conventions: Any,
) -> WordPieceTokenizer:
    """Read BERT's `vocab.txt`, a token a line, with what stands beside it; arguments as those of `bpe_of_files`.

    Raises:
        TokenizerError: the file is corrupt, or holds a token twice.
    """
    path = folder / "vocab.txt"
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path}: must be readable UTF-8 ({error}); download it again") from None
    tokens = [line.rstrip("\r") for line in lines]
    while tokens and not tokens[-1]:
        tokens.pop()
    vocab = {token: i for i, token in enumerate(tokens)}
    named = _added(folder, config, added, list({**BERT_ROLES, **given}.values()), vocab)
    return wordpiece_of_vocab(path, tokens, config, named, given, **conventions)


def _added(
    folder: Path,
    config: Mapping[str, Any],
    added: Mapping[str, Any],
    names: list[str],
    vocab: Mapping[str, int],
) -> tuple[AddedToken, ...]:
    tokens = {token.content: token for token in config_tokens(folder / "tokenizer_config.json", config)}
    for name in names:
        if name in vocab:  # transformers gives the mask of these classes the blank before it
            tokens.setdefault(name, AddedToken(name, vocab[name], lstrip=name == "<mask>"))
    where = folder / "added_tokens.json"
    listed = [{"content": name, "id": token_id, "special": name in names} for name, token_id in added.items()]
    for token in read_added_tokens(where, listed):
        tokens.setdefault(token.content, token)
    return tuple(tokens.values())
