"""What kind of tokenizer a `tokenizer.json` holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfllm.tokenizers.added_token import AddedToken, read_added_tokens
from tfllm.tokenizers.byte import ByteTokenizer
from tfllm.tokenizers.byte_alphabet import BYTE_CHARACTERS
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.files.byte_bpe_files import byte_bpe_of_pairs
from tfllm.tokenizers.files.byte_pairs import BytePairs, byte_pairs
from tfllm.tokenizers.files.sentencepiece_files import sentencepiece_of_json
from tfllm.tokenizers.files.wordpiece_files import wordpiece_of_json
from tfllm.tokenizers.roles import choose_roles, three_roles
from tfllm.tokenizers.tokenizer import Tokenizer

_KINDS = "byte-level BPE, WordPiece, Unigram or BPE of SentencePiece"


def tokenizer_of_json(
    path: Path,
    content: Mapping[str, Any],
    config: Mapping[str, Any],
    given: Mapping[str, str],
    **conventions: Any,
) -> Tokenizer:
    """Make the tokenizer that the content of a `tokenizer.json` describes.

    Args:
        path: the file, to be named in errors.
        content: what it says.
        config: what the `tokenizer_config.json` beside it says, which may add tokens.
        given: names by role.
        **conventions: further arguments of `Tokenizer`.

    Raises:
        TokenizerError: it cannot be understood.
    """
    content = {**content, "added_tokens": _all_added(path, content, config)}
    content["post_processor"] = _processor(content, config, given)
    kind = kind_of(content)
    if kind == "byte-level BPE":
        read = byte_pairs(path, content)
        if read.split is None:
            return _bytes(path, read, given, **conventions)
        return byte_bpe_of_pairs(path, read, given, **conventions)
    if kind == "WordPiece":
        added = read_added_tokens(path, content["added_tokens"])
        return wordpiece_of_json(path, content, added, given, **conventions)
    if kind in ("Unigram", "BPE"):
        added = read_added_tokens(path, content["added_tokens"])
        return sentencepiece_of_json(path, content, added, given, **conventions)
    raise TokenizerError(f"{path}: model.type={kind!r} must be one of {_KINDS}; take another tokenizer")


def kind_of(content: Mapping[str, Any]) -> str:
    """The kind of model; old files do not name it."""
    model = content.get("model")
    if not isinstance(model, dict):
        return str(model)
    kind = model.get("type")
    if kind is None:
        kind = "BPE" if "merges" in model else "WordPiece" if "max_input_chars_per_word" in model else None
    if kind == "BPE" and "ByteLevel" in _types(content.get("pre_tokenizer")):
        return "byte-level BPE"
    return str(kind)


def _types(part: Any) -> list[str]:
    """The types of a pre-tokenizer's steps."""
    if not isinstance(part, dict):
        return []
    return [
        part.get("type", ""),
        *(name for step in part.get("pretokenizers") or [] for name in _types(step)),
    ]


def _all_added(path: Path, content: Mapping[str, Any], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tokens of the file, and those that only the config beside it adds, as transformers adds them."""
    tokens = {token.content: token for token in read_added_tokens(path, content.get("added_tokens") or [])}
    for token in config_tokens(path, config):
        tokens.setdefault(token.content, token)
    ids = _ids(content) if (names := _special_names(config)) else {}
    for name in names:
        if name in tokens:
            tokens[name] = dataclasses.replace(tokens[name], special=True)
        elif name in ids:
            tokens[name] = AddedToken(name, ids[name])
    return [token.to_json() for token in tokens.values()]


def _special_names(config: Mapping[str, Any]) -> list[str]:
    """The names that a config calls special beside those with a role: in a list, or by a key each."""
    names = []
    for key in ("extra_special_tokens", "additional_special_tokens"):
        listed = config.get(key) or []
        for token in (
            listed.values() if isinstance(listed, dict) else listed if isinstance(listed, list) else []
        ):
            name = token.get("content") if isinstance(token, dict) else token
            if isinstance(name, str) and name:
                names.append(name)
    return names


def _ids(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Token to id of the model; a malformed one is found out later."""
    model = content.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, list):
        return {piece[0]: i for i, piece in enumerate(vocab) if isinstance(piece, list) and piece}
    return vocab if isinstance(vocab, dict) else {}


def _processor(content: Mapping[str, Any], config: Mapping[str, Any], given: Mapping[str, str]) -> Any:
    """The file's `post_processor`, or what transformers puts in its place where a config says what is to be added."""
    if not any(isinstance(config.get(f"add_{end}_token"), bool) for end in ("bos", "eos")):
        return content.get("post_processor")
    ids = {**_ids(content), **{token["content"]: token["id"] for token in content["added_tokens"]}}
    names = {
        end: given.get(f"{end}_token") for end in ("bos", "eos") if config.get(f"add_{end}_token") is True
    }
    known = {end: name for end, name in names.items() if name in ids}

    def part(end: str, text: int) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": known[end], "type_id": text}}] if end in known else []

    first, second = (
        [*part("bos", i), {"Sequence": {"id": name, "type_id": i}}, *part("eos", i)]
        for i, name in enumerate("AB")
    )
    tokens = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in known.values()}
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": [*first, *second],
        "special_tokens": tokens,
    }


def config_tokens(path: Path, config: Mapping[str, Any]) -> tuple[AddedToken, ...]:
    """The `added_tokens_decoder` of a `tokenizer_config.json`: id, as text, to token."""
    listed = config.get("added_tokens_decoder") or {}
    try:
        return read_added_tokens(path, [{**token, "id": int(token_id)} for token_id, token in listed.items()])
    except (AttributeError, TypeError, ValueError) as error:
        raise TokenizerError(
            f"{path.parent}: added_tokens_decoder must map ids to tokens ({error}); download it again"
        ) from None


def _bytes(path: Path, read: BytePairs, given: Mapping[str, str], **conventions: Any) -> ByteTokenizer:
    names = {token.content: token.id for token in read.added_tokens}
    plain = {token: i for token, i in read.vocab.items() if token not in names}
    expected = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}
    in_order = [token.id for token in read.added_tokens] == list(range(256, 256 + len(names)))
    if plain != expected or read.merges or read.nfc or read.add_prefix_space or not in_order:
        raise TokenizerError(
            f"{path}: pre_tokenizer without a split must go with 256 bytes, no merges and special tokens from 256 on;"
            " take another tokenizer"
        )
    roles = choose_roles(path, given, names, names)
    return ByteTokenizer(
        extra_special_tokens=list(names),
        framing=read.framing,
        added_tokens=read.added_tokens,
        **three_roles(roles),
        **conventions,
    )
