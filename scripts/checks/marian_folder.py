"""A small Marian's tokenizer: a model of pieces for each language, and one vocabulary that lacks some of them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_marian(
    folder: Path,
    lines: Sequence[str],
    *,
    left_out: int,
    more: Sequence[str],
    config: Mapping[str, str],
    **training: Any,
) -> int:
    """Writes the files, and returns how many tokens the vocabulary has. Needs sentencepiece.

    Args:
        folder: Where to.
        lines: The text of the source; that of the target is the same, read backwards.
        left_out: Every so many pieces of a model, one is missing in the vocabulary.
        more: Tokens that no model has.
        config: Of tokenizer_config.json, beside the class.
        training: Arguments of SentencePiece's trainer.
    """
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    vocab = {"</s>": 0, "<unk>": 1}
    for name, text in (("source", lines), ("target", [line[::-1] for line in lines])):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text), model_writer=model, minloglevel=2, **training
        )
        (folder / f"{name}.spm").write_bytes(model.getvalue())
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        for i in range(3, processor.get_piece_size()):
            if i % left_out:
                vocab.setdefault(processor.id_to_piece(i), len(vocab))
    for token in more:
        vocab.setdefault(token, len(vocab))
    (folder / "vocab.json").write_text(json.dumps(vocab) + "\n", encoding="utf-8")
    mapping = {"tokenizer_class": "MarianTokenizer", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(mapping) + "\n", encoding="utf-8")
    return len(vocab)
