"""Reading byte-level BPE vocabularies that others wrote."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfllm.tokenizers.added_token import AddedToken, read_added_tokens
from tfllm.tokenizers.bpe_vocab import pairs
from tfllm.tokenizers.byte_alphabet import BYTE_CHARACTERS
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.files.json_file import read_json_object
from tfllm.tokenizers.framing import Framing, read_framing
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
# Of these, those for characters that are unknown: where all bytes are there, none is.
_FOR_UNKNOWN = ("unk_token", "fuse_unk", "byte_fallback")
# Texts are not split: each is one word.
_WHOLE = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
_MEND = "export the file again from the tokenizer it came from"


@dataclasses.dataclass(frozen=True)
class BytePairs:
    """What a `tokenizer.json` with byte-level BPE says.

    Args:
        vocab: token to id, without those added tokens that stand outside the model.
        merges: pairs of tokens, first to last.
        added_tokens: tokens with names of their own.
        framing: what stands around a text.
        split: how texts are split into words; None if they are not.
        ignore_merges: a word that is a token is that token, whatever its bytes merge to.
        add_prefix_space: a text that does not begin with a blank gets one.
        nfc: texts are brought into Unicode's form NFC first.
    """

    vocab: dict[str, int]
    merges: list[tuple[str, str]]
    added_tokens: tuple[AddedToken, ...]
    framing: Framing
    split: WordSplit | None
    ignore_merges: bool
    add_prefix_space: bool
    nfc: bool


def read_tokenizer_json(path: str | Path) -> BytePairs:
    """Read the BPE in a `tokenizer.json` of the `tokenizers` library.

    Raises:
        TokenizerError: the file is missing, corrupt, or holds anything but byte-level BPE with a split that is
            known.
    """
    return byte_pairs(path, read_json_object(path, mend=_MEND))


def byte_pairs(path: str | Path, content: Mapping[str, Any]) -> BytePairs:
    """Take the same from the content of the file; `path` is named in errors."""
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else model
        raise TokenizerError(f"{path}: model.type={kind!r} must be 'BPE'; take a byte-level BPE tokenizer")
    whole = isinstance(model.get("vocab"), dict) and all(c in model["vocab"] for c in BYTE_CHARACTERS)
    for option, plain in _PLAIN_BPE.items():
        if whole and option in _FOR_UNKNOWN:
            continue
        # GPT-2's own file says "" where it means none.
        if (model.get(option) or plain) != plain:
            raise TokenizerError(
                f"{path}: model.{option}={model[option]!r} must be {plain!r} for byte-level BPE; take"
                " another tokenizer"
            )
    pre_tokenizer, add_prefix_space = _without_prefix_space(content.get("pre_tokenizer"))
    try:
        vocab = {str(token): int(i) for token, i in model["vocab"].items()}
        merges = pairs(model["merges"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise TokenizerError(f"{path}: vocab and merges must be well formed ({error!r}); {_MEND}") from error
    return BytePairs(
        vocab,
        merges,
        read_added_tokens(path, content.get("added_tokens") or []),
        read_framing(path, content.get("post_processor")),
        None if pre_tokenizer == _WHOLE else _split(path, pre_tokenizer),
        bool(model.get("ignore_merges")),
        add_prefix_space,
        _is_nfc(path, content.get("normalizer")),
    )


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
        return vocab, pairs(line.rstrip("\r") for line in body if line.strip())
    except ValueError as error:
        raise TokenizerError(
            f"{merges_path}: each line must be two tokens ({error}); download it again"
        ) from error


def _without_prefix_space(pre_tokenizer: Any) -> tuple[Any, bool]:
    """The pre-tokenizer as it is without `add_prefix_space`, where it is GPT-2's, and whether it had that."""
    kind, prefix_space, use_regex = "ByteLevel", "add_prefix_space", "use_regex"
    if not isinstance(pre_tokenizer, dict) or pre_tokenizer.get("type") != kind:
        return pre_tokenizer, False
    plain = {"type": kind, prefix_space: False, use_regex: pre_tokenizer.get(use_regex, True)}
    return plain, bool(pre_tokenizer.get(prefix_space, True))


def _is_nfc(path: str | Path, normalizer: Any) -> bool:
    if isinstance(normalizer, dict) and normalizer.get("type") == "Sequence":
        steps = normalizer.get("normalizers") or []
        normalizer = None if not steps else steps[0] if len(steps) == 1 else normalizer
    if normalizer is None:
        return False
    if normalizer == {"type": "NFC"}:
        return True
    raise TokenizerError(
        f"{path}: normalizer={normalizer!r} must be null or NFC for byte-level BPE; take another tokenizer"
    )


def _split(path: str | Path, pre_tokenizer: Any) -> WordSplit:
    split = split_of_json(pre_tokenizer)
    if split is None:
        raise TokenizerError(
            f"{path}: pre_tokenizer={pre_tokenizer} must be one of the splits {', '.join(SPLITS)}; other splits"
            " are not supported, take another tokenizer"
        )
    return split
