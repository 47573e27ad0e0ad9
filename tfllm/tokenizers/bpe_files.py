"""Reading byte-level BPE vocabularies that others wrote."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tfllm.tokenizers.json_file import read_json_object
from tfllm.tokenizers.tokenizer import TokenizerError
from tfllm.tokenizers.word_split import SPLITS, WordSplit, split_of_json

# Options of a BPE model that would change its ids, with the value each must have; absent means that value.
_PLAIN_BPE: dict[str, Any] = {
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
}
_MEND = "export the file again from the tokenizer it came from"


@dataclasses.dataclass(frozen=True)
class BytePairs:
    """What a `tokenizer.json` with byte-level BPE says.

    Args:
        vocab: token to id, without those special tokens that stand outside the model.
        merges: pairs of tokens, first to last.
        special_tokens: name to id.
        split: how texts are split into words.
        ignore_merges: a word that is a token is that token, whatever its bytes merge to.
    """

    vocab: dict[str, int]
    merges: list[tuple[str, str]]
    special_tokens: dict[str, int]
    split: WordSplit
    ignore_merges: bool


def read_tokenizer_json(path: str | Path) -> BytePairs:
    """Read the BPE in a `tokenizer.json` of the `tokenizers` library.

    Raises:
        TokenizerError: the file is missing, corrupt, or holds anything but byte-level BPE with a split that is
            known.
    """
    content = read_json_object(path, mend=_MEND)
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else model
        raise TokenizerError(f"{path}: model.type={kind!r} must be 'BPE'; take a byte-level BPE tokenizer")
    for option, plain in _PLAIN_BPE.items():
        # GPT-2's own file says "" where it means none.
        if (model.get(option) or plain) != plain:
            raise TokenizerError(
                f"{path}: model.{option}={model[option]!r} must be {plain!r} for byte-level BPE; take"
                " another tokenizer"
            )
    if content.get("normalizer") is not None:
        raise TokenizerError(
            f"{path}: normalizer={content['normalizer']!r} must be null, byte-level BPE keeps every byte;"
            " take another tokenizer"
        )
    split = _split(path, content.get("pre_tokenizer"))
    try:
        vocab = {str(token): int(i) for token, i in model["vocab"].items()}
        merges = _pairs(model["merges"])
        special = {str(token["content"]): int(token["id"]) for token in content.get("added_tokens") or []}
        ordinary = [
            token["content"] for token in content.get("added_tokens") or [] if not token.get("special")
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TokenizerError(
            f"{path}: vocab, merges and added_tokens must be well formed ({error!r}); {_MEND}"
        ) from error
    if ordinary:
        raise TokenizerError(
            f"{path}: added token {ordinary[0]!r} must be special: one that is cut out of plain text is not"
            " byte-level BPE; mark it special or leave it out"
        )
    return BytePairs(vocab, merges, special, split, bool(model.get("ignore_merges")))


def read_vocab_and_merges(
    vocab_path: str | Path, merges_path: str | Path
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Read GPT-2's `vocab.json` and `merges.txt`; returns vocab and merges as in `BytePairs`.

    Raises:
        TokenizerError: a file is missing or corrupt.
    """
    vocab = read_json_object(vocab_path, mend="download it again")
    if not all(isinstance(i, int) for i in vocab.values()):
        raise TokenizerError(f"{vocab_path}: must map each token to an integer id; download it again")
    try:
        lines = Path(merges_path).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise TokenizerError(
            f"{merges_path}: must be a readable file ({error.strerror}); download it again"
        ) from error
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{merges_path}: must be UTF-8 ({error}); download it again") from error
    # Only the first line can be the header: "# version" could not be told from a merge of '#' further down.
    body = lines[1:] if lines[0].startswith("#version") else lines
    try:
        return vocab, _pairs(line.rstrip("\r") for line in body if line.strip())
    except ValueError as error:
        raise TokenizerError(
            f"{merges_path}: each line must be two tokens ({error}); download it again"
        ) from error


def _pairs(merges: Iterable[Any]) -> list[tuple[str, str]]:
    # Files before version 0.20 of the library write a pair as "a b"; a byte-level token has no space in it.
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(token, str) and token for token in pair):
            raise ValueError(f"not a pair: {pair!r}")
    return [(left, right) for left, right in pairs]


def _split(path: str | Path, pre_tokenizer: Any) -> WordSplit:
    split = split_of_json(pre_tokenizer)
    if split is None:
        raise TokenizerError(
            f"{path}: pre_tokenizer={pre_tokenizer} must be one of the splits {', '.join(SPLITS)}; other splits"
            " are not supported, take another tokenizer"
        )
    return split
