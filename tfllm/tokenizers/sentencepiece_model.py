"""SentencePiece's own files: protocol buffers with the pieces, their scores and how texts are normalized."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from tfllm.tokenizers.errors import TokenizerError

# Types of pieces, and of models.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
# What blanks are written as, U+2581.
BLANK = "\u2581"
Model = Any  # made at run time by protobuf
_ModelProto: Any = getattr(sentencepiece_model_pb2, "ModelProto")  # noqa: B009, which type checkers cannot see


def parsed_model(where: object, content: bytes) -> Model:
    """Read a model.

    Raises:
        TokenizerError: it is damaged, or neither Unigram nor BPE, or normalizes what it decodes.
    """
    try:
        model = _ModelProto.FromString(content)
    except DecodeError as error:
        raise TokenizerError(
            f"{where}: must be a whole SentencePiece model ({error}); download it again"
        ) from None
    if not model.pieces:
        raise TokenizerError(f"{where}: must hold the pieces of a SentencePiece model; download it again")
    if model.trainer_spec.model_type not in (UNIGRAM, BPE):
        raise TokenizerError(
            f"{where}: trainer_spec.model_type={model.trainer_spec.model_type} must be {UNIGRAM}, Unigram, or {BPE},"
            " BPE; take another tokenizer"
        )
    if model.denormalizer_spec.precompiled_charsmap or model.trainer_spec.treat_whitespace_as_suffix:
        raise TokenizerError(
            f"{where}: denormalizer_spec and treat_whitespace_as_suffix must not be set; take another tokenizer"
        )
    if not any(piece.type == UNKNOWN for piece in model.pieces):
        raise TokenizerError(f"{where}: one piece must be the unknown one; download the model again")
    return model


def loaded_library(content: bytes) -> sentencepiece.SentencePieceProcessor:
    """Load a model into its library.

    Raises:
        TokenizerError: the library refuses it.
    """
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=content)
    except (RuntimeError, ValueError, OSError) as error:
        raise TokenizerError(
            f"the SentencePiece model must be one that its library loads ({error}); download it again"
        ) from None


def built_model(
    pieces: Iterable[tuple[str, float, int]],
    *,
    model_type: int,
    charsmap: bytes = b"",
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    unknown_text: str | None = None,
) -> bytes:
    """Return the content of a model.

    Args:
        pieces: Name, score and type of each, by id.
        model_type: UNIGRAM or BPE.
        charsmap: The table by which characters are normalized, in SentencePiece's form; empty is none.
        add_dummy_prefix: A text begins with a blank.
        remove_extra_whitespaces: Blanks at the ends go, and of several only one stays.
        unknown_text: What the unknown piece is decoded to; None is SentencePiece's own sign.
    """
    model: Model = _ModelProto()
    for name, score, kind in pieces:
        model.pieces.add(piece=name, score=score, type=kind)
    unknown = [i for i, piece in enumerate(model.pieces) if piece.type == UNKNOWN]
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.vocab_size = model_type, len(model.pieces)
    trainer.byte_fallback = sum(piece.type == BYTE for piece in model.pieces) == 256
    trainer.unk_id = unknown[0] if unknown else 0
    if unknown_text is not None:
        trainer.unk_surface = unknown_text
    normalizer.name = "from_file" if charsmap else "identity"
    normalizer.precompiled_charsmap = charsmap
    normalizer.add_dummy_prefix = add_dummy_prefix
    normalizer.remove_extra_whitespaces = remove_extra_whitespaces
    normalizer.escape_whitespaces = True
    return model.SerializeToString(deterministic=True)


def with_dummy_prefix(content: bytes, add: bool) -> bytes:
    """The model with another `add_dummy_prefix`."""
    model = _ModelProto.FromString(content)
    model.normalizer_spec.add_dummy_prefix = add
    return model.SerializeToString(deterministic=True)


def without_bytes(content: bytes) -> bytes:
    """The model without byte fallback: what is unknown stays as it is written."""
    model = _ModelProto.FromString(content)
    model.trainer_spec.byte_fallback = False
    for piece in model.pieces:
        if piece.type == BYTE:
            piece.type = CONTROL
    return model.SerializeToString(deterministic=True)
