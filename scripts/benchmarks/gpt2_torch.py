"""A GPT-2 of transformers. Needs PyTorch and transformers, and nothing of tfllm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers


def start(settings: Mapping[str, Any]) -> None:
    """Sets the threads, and keeps transformers quiet."""
    torch.set_num_threads(settings["threads"])
    transformers.logging.set_verbosity_error()


def make_model(shape: Mapping[str, Any]) -> transformers.GPT2LMHeadModel:
    """Returns a model with new weights, the same ones each time, and without dropout.

    Args:
        shape: `vocab`, `layers`, `width`, `heads` and `seq_len`.
    """
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=shape["vocab"],
        n_positions=shape["seq_len"],
        n_embd=shape["width"],
        n_layer=shape["layers"],
        n_head=shape["heads"],
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
        attn_implementation="sdpa",
    )
    return transformers.GPT2LMHeadModel(config)
