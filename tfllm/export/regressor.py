"""A model that tells a number from a text as one SavedModel: text in, number out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfllm.export.errors import ExportError
from tfllm.export.text_reader import export_text_reader
from tfllm.tokenizers import Tokenizer


def export_regressor(
    model: Any,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    pairs: bool = False,
    around: tuple[str, str] | None = None,
    version: int | None = None,
) -> Path:
    """Writes `<folder>/<version>/`, which TensorFlow Serving and any TensorFlow load without tfllm.

    Its signature `serving_default` takes `text` string [B], and of pairs `text_pair` string [B]. It returns `value`
    float32 [B], and `tokens_dropped` int32 [B], how many did not fit into the model's `max_seq_len`, counted from the
    end.

    Args:
        model: An `Encoder` or `Decoder` with head sequence_classification and one class.
        tokenizer: Its tokenizer.
        folder: Parent of the version folders; made where it does not exist.
        pairs: Read two texts.
        around: What stands before a text and behind it, of the template it was trained in; None is nothing.
        version: None takes the next after the largest there.

    Returns:
        The version's folder.

    Raises:
        ExportError: when the model tells no number from a text, or as for `export_saved_model`.
    """
    if getattr(model, "head", "none") != "sequence_classification" or model.classifier.units != 1:
        raise ExportError(
            "only a model that tells a number from a text can be exported so; train task.type=regression"
        )
    return export_text_reader(
        model,
        tokenizer,
        folder,
        answers=lambda outputs, mask: {"value": outputs["logits"][:, 0]},
        pairs=pairs,
        around=around,
        metadata={},
        version=version,
    )
