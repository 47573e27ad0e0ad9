"""Tokenizers that GGUF files carry in their metadata, as llama.cpp writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tfllm.tokenizers.added_token import AddedToken
from tfllm.tokenizers.bpe_vocab import pairs
from tfllm.tokenizers.byte_bpe import ByteBPETokenizer
from tfllm.tokenizers.byte_runs import BYTE_NAMES
from tfllm.tokenizers.end_of_turn import end_names
from tfllm.tokenizers.errors import NoTokenizerError, TokenizerError
from tfllm.tokenizers.files.byte_bpe_files import byte_bpe_of_pairs
from tfllm.tokenizers.files.byte_pairs import BytePairs
from tfllm.tokenizers.files.sentencepiece_files import sentencepiece_of_pieces
from tfllm.tokenizers.framing import Framing
from tfllm.tokenizers.roles import ROLES, unset_roles
from tfllm.tokenizers.sentencepiece import SentencePieceTokenizer
from tfllm.tokenizers.sentencepiece_model import BLANK, BPE, UNIGRAM, built_model
from tfllm.tokenizers.tokenizer import Tokenizer
from tfllm.tokenizers.word_split import SPLITS

PREFIX = "tokenizer.ggml."
# `tokenizer.ggml.token_type`.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
# `tokenizer.ggml.pre` to the split, and whether words that are tokens stay whole, and whether NFC comes first. The
# names are those of llama.cpp's `llama-vocab.cpp`; NFC, which it leaves out, is in the checkpoints these come from.
_SPLITS = {
    "gpt-2": ("gpt2", False, False),
    "phi-2": ("gpt2", False, False),
    "smollm": ("smollm", False, False),
    "llama3": ("llama3", True, False),
    "llama-v3": ("llama3", True, False),
    "llama-bpe": ("llama3", True, False),
    "qwen2": ("qwen2", False, True),
    "deepseek-r1-qwen": ("qwen2", False, True),
}
_END_KEYS = (
    *("eos_token_id", "eot_token_id", "eom_token_id"),
    *("fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id"),
)
# The unknown token where a file names none: of a BPE, and of a Unigram model.
_UNKNOWN_IDS = (0, 2)
_ID_KEYS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "pad_token": "padding_token_id",
    "unk_token": "unknown_token_id",
    "mask_token": "mask_token_id",
    "cls_token": "cls_token_id",
    "sep_token": "seperator_token_id",  # spelt so
}


def read_gguf_tokenizer(
    metadata: Mapping[str, Any], list_of: Callable[[str], list[Any]], path: str | Path
) -> Tokenizer:
    """Make the tokenizer that a GGUF file describes.

    Args:
        metadata: key to value, but for lists.
        list_of: gives the list under a key, empty where there is none.
        path: the file, to be named in errors.

    Raises:
        TokenizerError: the file has no tokenizer, one of a kind that is not known, or a damaged one.
    """
    kind = metadata.get(f"{PREFIX}model")
    if kind not in _READERS:
        raise (NoTokenizerError if kind is None else TokenizerError)(
            f"{path}: {PREFIX}model={kind!r} must be one of {', '.join(map(repr, _READERS))}; take another file, or"
            " the checkpoint's own tokenizer files"
        )
    _check_lists(path, list_of)
    tokens = [str(token) for token in list_of(f"{PREFIX}tokens")]
    types = [int(kind) for kind in list_of(f"{PREFIX}token_type")] or [NORMAL] * len(tokens)
    if not tokens or len(types) != len(tokens):
        raise TokenizerError(
            f"{path}: {PREFIX}tokens and token_type must be lists of one length, they have {len(tokens)} and"
            f" {len(types)}; download the file again"
        )
    given = _given(path, metadata, tokens)
    templates = _chat_templates(path, metadata, list_of)
    tokenizer = _READERS[kind](path, metadata, list_of, tokens, types, given, chat_template=templates)
    tokenizer.unset_roles = unset_roles(tokenizer.roles, given)
    return tokenizer


def end_token_ids(metadata: Mapping[str, Any], list_of: Callable[[str], list[Any]]) -> list[int]:
    """Ids of the tokens that end a turn or a text, as llama.cpp decides: those under keys, and some by their names."""
    tokens = [str(token) for token in list_of(f"{PREFIX}tokens")]
    ids = {token: i for i, token in enumerate(tokens)}
    keyed = [metadata.get(f"{PREFIX}{key}") for key in _END_KEYS]
    known = [i for i in keyed if isinstance(i, int) and not isinstance(i, bool) and 0 <= i < len(tokens)]
    known += [int(i) for i in list_of(f"{PREFIX}eos_token_ids") if 0 <= int(i) < len(tokens)]
    return list(dict.fromkeys([*known, *(ids[name] for name in end_names(ids))]))


def _chat_templates(
    path: str | Path, metadata: Mapping[str, Any], list_of: Callable[[str], list[Any]]
) -> str | dict[str, str] | None:
    """The template, or several by name: the names stand in a list, each template under a key of its own."""
    one = "tokenizer.chat_template"
    named = {str(name): metadata.get(f"{one}.{name}") for name in list_of("tokenizer.chat_templates")}
    found = {**({"default": metadata[one]} if one in metadata else {}), **named}
    for name, template in found.items():
        if not isinstance(template, str):
            raise TokenizerError(f"{path}: {one}.{name}={template!r} must be a text; download the file again")
    return found if named else found.get("default")


def _byte_bpe(
    path: str | Path,
    metadata: Mapping[str, Any],
    list_of: Callable[[str], list[Any]],
    tokens: list[str],
    types: list[int],
    given: dict[str, str],
    **conventions: Any,
) -> ByteBPETokenizer:
    pre = metadata.get(f"{PREFIX}pre")
    if pre not in _SPLITS:
        raise TokenizerError(
            f"{path}: {PREFIX}pre={pre!r} is not known, so its texts cannot be split; known are"
            f" {', '.join(map(repr, _SPLITS))}; take the checkpoint's own tokenizer files"
        )
    split, ignore_merges, nfc = _SPLITS[pre]
    vocab, added = _vocab_and_added(path, tokens, types)
    try:
        merges = pairs(list_of(f"{PREFIX}merges"))
    except ValueError as error:
        raise TokenizerError(
            f"{path}: {PREFIX}merges must be pairs ({error}); download the file again"
        ) from None
    framing = _framing(metadata, tokens, given, before=ignore_merges, after=False)
    read = BytePairs(
        vocab, merges, added, framing, SPLITS[split], ignore_merges, add_prefix_space=False, nfc=nfc
    )
    return byte_bpe_of_pairs(path, read, given, **conventions)


def _sentencepiece(
    path: str | Path,
    metadata: Mapping[str, Any],
    list_of: Callable[[str], list[Any]],
    tokens: list[str],
    types: list[int],
    given: dict[str, str],
    **conventions: Any,
) -> SentencePieceTokenizer:
    scores = [float(score) for score in list_of(f"{PREFIX}scores")]
    if len(scores) != len(tokens):
        raise TokenizerError(
            f"{path}: {PREFIX}scores must be as many as the {len(tokens)} tokens, not {len(scores)}; download the file"
            " again"
        )
    unigram = metadata[f"{PREFIX}model"] == "t5"
    unknown = metadata.get(f"{PREFIX}unknown_token_id", _UNKNOWN_IDS[unigram])
    # llama.cpp's converter writes a special <unk> as a control token, and blanks in a user's tokens as they are.
    hidden = UNKNOWN not in types and 0 <= unknown < len(tokens)
    if hidden:
        types = [UNKNOWN if i == unknown else kind for i, kind in enumerate(types)]
    # Early converters took them for ordinary tokens, and wrote line breaks as "<0x0A>".
    if BYTE not in types and set(BYTE_NAMES) <= set(tokens):
        types = [BYTE if token in BYTE_NAMES else kind for token, kind in zip(tokens, types, strict=True)]
    tokens = [
        token.replace(" ", BLANK) if kind == USER_DEFINED else token
        for token, kind in zip(tokens, types, strict=True)
    ]
    model = built_model(
        zip(tokens, scores, types, strict=True),
        model_type=UNIGRAM if unigram else BPE,
        charsmap=bytes(int(byte) & 255 for byte in list_of(f"{PREFIX}precompiled_charsmap")),
        add_dummy_prefix=bool(metadata.get(f"{PREFIX}add_space_prefix", True)),
        remove_extra_whitespaces=bool(metadata.get(f"{PREFIX}remove_extra_whitespaces", unigram)),
        unknown_text="" if hidden else None,
    )
    framing = _framing(metadata, tokens, given, before=not unigram, after=unigram)
    return sentencepiece_of_pieces(path, model, given, framing=framing, **conventions)


_READERS: dict[Any, Callable[..., Tokenizer]] = {
    "gpt2": _byte_bpe,
    "llama": _sentencepiece,
    "t5": _sentencepiece,
}


def _vocab_and_added(
    path: str | Path, tokens: list[str], types: list[int]
) -> tuple[dict[str, int], tuple[AddedToken, ...]]:
    """Token to id, without unused ones, and the tokens with names of their own."""
    vocab = {token: i for i, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind != UNUSED}
    if len(vocab) != len(tokens) - types.count(UNUSED):
        raise TokenizerError(f"{path}: {PREFIX}tokens must not hold one token twice; download the file again")
    named = {CONTROL, UNKNOWN, USER_DEFINED}
    added = (
        AddedToken(token, i, special=kind != USER_DEFINED)
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in named
    )
    return vocab, tuple(added)


def _check_lists(path: str | Path, list_of: Callable[[str], list[Any]]) -> None:
    kinds: dict[str, tuple[type, ...]] = {
        **{"tokens": (str,), "merges": (str,), "token_type": (int,)},
        **{"scores": (float, int), "precompiled_charsmap": (int,)},
    }
    for name, kind in kinds.items():
        wrong = next((each for each in list_of(PREFIX + name) if not isinstance(each, kind)), None)
        if wrong is not None or isinstance(wrong, bool):
            raise TokenizerError(
                f"{path}: {PREFIX}{name} must not hold {wrong!r}, which is of another type; download the file again"
            )


def _given(path: str | Path, metadata: Mapping[str, Any], tokens: list[str]) -> dict[str, str]:
    given = {}
    for role in ROLES:
        token_id = metadata.get(key := PREFIX + _ID_KEYS[role])
        if token_id is None:
            continue
        if type(token_id) is not int or not 0 <= token_id < len(tokens):
            raise TokenizerError(
                f"{path}: {key}={token_id} must be the id of one of the {len(tokens)} tokens; download the file again"
            )
        given[role] = tokens[token_id]
    return given


def _framing(
    metadata: Mapping[str, Any], tokens: list[str], given: Mapping[str, str], *, before: bool, after: bool
) -> Framing:
    """What stands around a text; `before` and `after` say whether bos and eos do where the file does not say."""
    ids = {
        role: (tokens.index(given[role]),)
        for role, key, default in (
            ("bos_token", "add_bos_token", before),
            ("eos_token", "add_eos_token", after),
        )
        if metadata.get(PREFIX + key, default) and role in given
    }
    return Framing(prefix=ids.get("bos_token", ()), suffix=ids.get("eos_token", ()))
