"""Marian (Junczys-Dowmunt et al. 2018), which the OPUS-MT translators are (Tiedemann & Thottingal 2020)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfllm.convert.config_reader import ConfigReader
from tfllm.convert.config_table import Always, Arguments, Constant
from tfllm.convert.encoder_decoder_kind import ENCODER_DECODER, StartToken
from tfllm.convert.families.bart import IGNORED, rows, sizes
from tfllm.convert.family import Family
from tfllm.layers.positions.sinusoidal import sinusoidal_table


class _Vocabularies:
    """One vocabulary and embedding for both languages, or two; and the output layer. A `ConfigRow`."""

    def read(self, config: ConfigReader, arguments: Arguments) -> Arguments:
        """See `ConfigRow`."""
        del arguments
        source = config.size("vocab_size", 58101)
        target = config.size("decoder_vocab_size", source)
        tied = config.take("tie_word_embeddings", bool, True)
        if not config.take("share_encoder_decoder_embeddings", bool, True):
            return {"vocab_size": target, "source_vocab_size": source, "tie_embeddings": tied}
        if target != source:
            raise config.refuse("decoder_vocab_size", target, f"embeddings are shared, so only {source} is")
        if not tied:
            # transformers 4 unties the output layer by it, transformers 5 all three embeddings.
            raise config.refuse("tie_word_embeddings", tied, "where embeddings are shared, only True is")
        return {"vocab_size": source, "source_vocab_size": None, "tie_embeddings": True}

    def write(self, arguments: Arguments) -> dict[str, Any]:
        """See `ConfigRow`."""
        target, source = arguments["vocab_size"], arguments["source_vocab_size"]
        return {
            "vocab_size": target if source is None else source,
            "decoder_vocab_size": target,
            "share_encoder_decoder_embeddings": source is None,
            "tie_word_embeddings": arguments["tie_embeddings"],
        }


def _sinusoids(arguments: Arguments) -> np.ndarray:
    return sinusoidal_table(arguments["max_seq_len"], arguments["hidden_dim"])


MARIAN = Family(
    model_type="marian",
    architecture="MarianMTModel",
    prefix="model.",
    rows=rows,
    keys=(
        _Vocabularies(),
        *sizes("gelu"),
        Always("positions", "sinusoidal"),
        Always("embedding_norm", False),
        Constant("normalize_embedding", False, written=False),
        Constant("static_position_embeddings", True, written=False),
        StartToken(default=58100, is_padding=True),
    ),
    computed={f"model.{stack}.embed_positions.weight": _sinusoids for stack in ("encoder", "decoder")},
    ignored=(*IGNORED, "extra_pos_embeddings"),  # of learned positions
    kind=ENCODER_DECODER,
)
