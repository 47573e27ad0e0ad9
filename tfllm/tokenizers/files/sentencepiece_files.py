"""SentencePiece tokenizers of checkpoints: from `tokenizer.model`, from `tokenizer.json`, or from both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfllm.tokenizers.added_token import AddedToken, not_guessed, read_added_tokens
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.files.metaspace_files import metaspace_of_json
from tfllm.tokenizers.files.sentencepiece_json import is_written_here, model_of_json
from tfllm.tokenizers.framing import Framing, read_framing
from tfllm.tokenizers.roles import choose_roles, three_roles
from tfllm.tokenizers.sentencepiece import MODEL_FILE, SentencePieceTokenizer
from tfllm.tokenizers.sentencepiece_model import (
    CONTROL,
    UNIGRAM,
    UNKNOWN,
    USER_DEFINED,
    built_model,
    parsed_model,
)
from tfllm.tokenizers.tokenizer import Tokenizer

# By these names checkpoints have the model; XLM-R's ids are not the places of its pieces.
MODEL_FILES = (MODEL_FILE, "spiece.model")
XLMR_FILE = "sentencepiece.bpe.model"


def sentencepiece_of_json(
    path: Path,
    content: Mapping[str, Any],
    added: Sequence[AddedToken],
    given: Mapping[str, str],
    **conventions: Any,
) -> Tokenizer:
    """Make the tokenizer that a `tokenizer.json` describes; arguments as those of `tokenizer_of_json`.

    Where the model it comes from lies beside it, with the same pieces, that is taken: it normalizes as it did in
    training. So it is with a file that `SentencePieceTokenizer` wrote; any other means what the `tokenizers` library
    makes of it.

    Raises:
        TokenizerError: it cannot be understood.
    """
    model, prefix_every_piece = None, True
    for beside in (path.parent / name for name in MODEL_FILES):
        if beside.is_file():
            model = beside.read_bytes()
            pieces = tuple(piece.piece for piece in parsed_model(beside, model).pieces)
            if pieces != _names(content):
                model = None
    if model is None and not is_written_here(content):
        return metaspace_of_json(path, content, added, given, **conventions)
    added = _as_written(added)
    if model is None:
        read = model_of_json(path, content, added)
        model, prefix_every_piece = read.model, read.prefix_every_piece
    else:
        prefix_every_piece = _prefix_scheme(content) != "first"
    framing = read_framing(path, content.get("post_processor"))
    how = {"prefix_every_piece": prefix_every_piece, "json": content, "framing": framing, **conventions}
    return _make(path, model, added, given, **how)


def sentencepiece_of_file(
    path: Path,
    config: Mapping[str, Any],
    listed: Mapping[str, Any],
    given: Mapping[str, str],
    **conventions: Any,
) -> SentencePieceTokenizer:
    """Make the tokenizer of a `tokenizer.model`.

    Args:
        path: the file.
        config: what `tokenizer_config.json` beside it says.
        listed: what `added_tokens.json` says, name to id.
        given: names by role.
        **conventions: further arguments of `Tokenizer`.

    Raises:
        TokenizerError: the file is damaged.
    """
    try:
        model = path.read_bytes()
    except OSError as error:
        raise TokenizerError(
            f"{path}: must be a readable file ({error.strerror}); download it again"
        ) from None
    parsed = parsed_model(path, model)
    kind = str(config.get("tokenizer_class", ""))
    xlmr = path.name == XLMR_FILE
    if xlmr and not kind.startswith("XLMRoberta") and kind:
        raise TokenizerError(
            f"{path}: tokenizer_class={kind!r} must be XLMRobertaTokenizer, of the others it is not known how their ids"
            " follow from this file; put the checkpoint's tokenizer.json beside it"
        )
    if xlmr:
        model = _xlmr_model(path, parsed)
        parsed = parsed_model(path, model)
    added = {token.content: token for token in read_added_tokens(path.parent, _config_added(config))}
    if kind.startswith(("T5", "MT5")) and not added:
        count = int(config.get("extra_ids", 100))
        size = len(parsed.pieces)
        added = {
            name: AddedToken(name, size + count - 1 - i)
            for i, name in ((i, f"<extra_id_{i}>") for i in range(count))
        }
    names = set(given.values())
    items = [{"content": name, "id": i, "special": name in names} for name, i in listed.items()]
    for token in read_added_tokens(path.parent / "added_tokens.json", items):
        added.setdefault(token.content, token)
    ids = {piece.piece: i for i, piece in enumerate(parsed.pieces)}
    given = _usual_names(parsed, given)
    framing = _class_framing(kind, xlmr, config, {role: ids[n] for role, n in given.items() if n in ids})
    how = {"prefix_every_piece": bool(config.get("legacy", True)), "framing": framing, **conventions}
    return _make(path, model, _as_written(added.values()), given, **how)


def _make(
    path: str | Path, model: bytes, added: Sequence[AddedToken], given: Mapping[str, str], **how: Any
) -> SentencePieceTokenizer:
    parsed = parsed_model(path, model)
    whole = {piece.piece: i for i, piece in enumerate(parsed.pieces)}
    special = {piece.piece: i for i, piece in enumerate(parsed.pieces) if piece.type in (CONTROL, UNKNOWN)}
    for token in added:
        if whole.get(token.content, token.id) != token.id or (
            token.id < len(parsed.pieces) and parsed.pieces[token.id].piece != token.content
        ):
            raise TokenizerError(
                f"{path}: added token {token.content!r} must have an id of its own, {token.id} is that of another"
                " piece; mend the files"
            )
        whole[token.content] = token.id
        if token.special:
            special[token.content] = token.id
    given = {"unk_token": _unknown(parsed), **given}
    user = [
        AddedToken(p.piece, i, special=False) for i, p in enumerate(parsed.pieces) if p.type == USER_DEFINED
    ]
    roles = not_guessed(choose_roles(path, given, whole, special), given, [*user, *added])
    special |= {name: whole[name] for name in roles.values()}
    return SentencePieceTokenizer(
        model, special_tokens=special, added_tokens=added, **three_roles(roles), **how
    )


def _as_written(added: Any) -> list[AddedToken]:
    """SentencePiece has no normalized text that tokens could be looked for in: all are, as they are written."""
    return [dataclasses.replace(token, normalized=False) for token in added]


def _names(content: Mapping[str, Any]) -> tuple[str, ...] | None:
    vocab = content["model"].get("vocab")
    try:
        if isinstance(vocab, dict):
            return tuple(sorted(vocab, key=vocab.__getitem__))
        return tuple(name for name, _ in vocab)
    except (TypeError, ValueError):
        return None


def _prefix_scheme(content: Mapping[str, Any]) -> str:
    """How pieces behind the first begin, where the model says how texts do."""
    part = content.get("pre_tokenizer")
    steps = part.get("pretokenizers") or [part] if isinstance(part, dict) else []
    schemes = [step.get("prepend_scheme") for step in steps if isinstance(step, dict)]
    return next((scheme for scheme in schemes if scheme), "always")


def _config_added(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = config.get("added_tokens_decoder") or {}
    return (
        [{**token, "id": int(token_id)} for token_id, token in listed.items()]
        if isinstance(listed, dict)
        else []
    )


def _unknown(parsed: Any) -> str:
    return next(piece.piece for piece in parsed.pieces if piece.type == UNKNOWN)


def _usual_names(parsed: Any, given: Mapping[str, str]) -> dict[str, str]:
    """The roles, where no file gives them as the model itself does."""
    trainer = parsed.trainer_spec
    own = {"bos_token": trainer.bos_piece, "eos_token": trainer.eos_piece, "pad_token": trainer.pad_piece}
    pieces = {piece.piece for piece in parsed.pieces}
    return {**{role: name for role, name in own.items() if name in pieces}, **given}


def _class_framing(kind: str, xlmr: bool, config: Mapping[str, Any], ids: Mapping[str, int]) -> Framing:
    """What stands around a text by transformers' classes; Llama's puts bos before it."""
    bos = (ids["bos_token"],) if "bos_token" in ids else ()
    eos = (ids["eos_token"],) if "eos_token" in ids else ()
    if xlmr:
        return Framing(bos, eos, eos + eos)
    if kind.startswith(("T5", "MT5", "Pegasus")):
        return Framing((), eos, eos)
    before = bos if config.get("add_bos_token", True) else ()
    behind = eos if config.get("add_eos_token", False) else ()
    return Framing(before, behind, behind + before)


def _xlmr_model(path: Path, parsed: Any) -> bytes:
    """The model with XLM-R's ids (fairseq's): four tokens of its own, the pieces behind the first three, a mask."""
    own = [piece.piece for piece in list(parsed.pieces)[:3]]
    if own != ["<unk>", "<s>", "</s>"]:
        raise TokenizerError(
            f"{path}: the first pieces must be <unk>, <s> and </s>, as in XLM-R, not {own}; put the checkpoint's"
            " tokenizer.json beside it"
        )
    first = [("<s>", 0.0, CONTROL), ("<pad>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<unk>", 0.0, UNKNOWN)]
    rest = [(piece.piece, piece.score, piece.type) for piece in list(parsed.pieces)[3:]]
    rules = parsed.normalizer_spec
    return built_model(
        [*first, *rest, ("<mask>", 0.0, CONTROL)],
        model_type=UNIGRAM,
        charsmap=rules.precompiled_charsmap,
        add_dummy_prefix=rules.add_dummy_prefix,
        remove_extra_whitespaces=rules.remove_extra_whitespaces,
    )


def sentencepiece_of_pieces(
    path: str | Path, model: bytes, given: Mapping[str, str], **how: Any
) -> SentencePieceTokenizer:
    """Make a tokenizer of a model alone, such as one that was built from a GGUF file."""
    return _make(path, model, [], given, **how)
