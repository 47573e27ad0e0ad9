"""Makes the goldens: what transformers computes from the checkpoints of `cases.py` and `encoder_cases.py`.

pip install torch==2.13.0 transformers==5.23.0
python tests/convert/goldens/make_goldens.py [--to FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import numpy as np
import torch
import transformers

from tests.convert.goldens import encoder_goldens
from tests.convert.goldens.cases import CASES, NEW_TOKENS, batch, direction, prompts, weight
from tests.convert.goldens.encoder_cases import ENCODER_CASES
from tests.convert.goldens.encoder_decoder_cases import ENCODER_DECODER_CASES, sources, targets

ALL = {**CASES, **ENCODER_DECODER_CASES}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, default=Path(__file__).parent)
    known = [*ALL, *ENCODER_CASES]
    parser.add_argument("--cases", nargs="+", choices=known, default=known)
    options = parser.parse_args()
    for name in options.cases:
        make_golden = encoder_goldens.golden if name in ENCODER_CASES else golden
        np.savez_compressed(options.to / f"{name}.npz", **make_golden(name))
        print(name)


def make(name: str) -> transformers.PreTrainedModel:
    """The model of a case."""
    model_type, settings = ALL[name]
    config = transformers.AutoConfig.for_model(model_type, **settings)
    config._attn_implementation = "eager"
    kinds = transformers.AutoModelForCausalLM, transformers.AutoModelForSeq2SeqLM
    model = kinds[name in ENCODER_DECODER_CASES].from_config(config, attn_implementation="eager").eval()
    if config.model_type in ("t5", "mt5") and not settings.get("tie_word_embeddings", True):
        # transformers 5 ties where a file has no output layer, whatever the config says.
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        model.all_tied_weights_keys.pop("lm_head.weight")
        model._tied_weights_keys = {
            k: v for k, v in model._tied_weights_keys.items() if k != "lm_head.weight"
        }
    for path, parameter in stored(model).items():
        values = weight(
            stored_name(name, path), tuple(parameter.shape), unit_offset=model_type.startswith("gemma")
        )
        parameter.data = torch.from_numpy(values)
    model.tie_weights()
    return model


def stored(model: transformers.PreTrainedModel) -> dict[str, torch.Tensor]:
    """What files hold: parameters, but for computed positions, and the bias of the logits, which is a buffer."""
    buffers = {path: x for path, x in model.named_buffers() if path == "final_logits_bias"}
    return {**{path: p for path, p in model.named_parameters() if p.requires_grad}, **buffers}


def stored_name(name: str, path: str) -> str:
    """What the files call a parameter; transformers 5 renames GPT-NeoX's output layer as it reads."""
    return path.replace("lm_head.", "embed_out.") if ALL[name][0] == "gpt_neox" else path


def golden(name: str) -> dict[str, np.ndarray]:
    """Config and names, logits, loss, gradients, and greedy continuations."""
    model = make(name)
    model.generation_config = transformers.GenerationConfig(eos_token_id=None, pad_token_id=0)
    results = (_answers if name in ENCODER_DECODER_CASES else _continues)(model)
    tensors = {stored_name(name, path): p for path, p in stored(model).items()}
    parameters = {path: p for path, p in tensors.items() if p.requires_grad}
    gradients = [
        [
            p.grad.norm().item(),
            float((p.grad.numpy().astype(np.float64) * direction(path, tuple(p.shape))).sum()),
        ]
        for path, p in parameters.items()
    ]
    shapes = {path: list(p.shape) for path, p in tensors.items()}
    return {
        "config": np.array(json.dumps(model.config.to_dict(), default=str)),
        "shapes": np.array(json.dumps(shapes)),
        "names": np.array(list(parameters)),
        "gradients": np.array(gradients),
        **results,
    }


def _continues(model: transformers.PreTrainedModel) -> dict[str, np.ndarray]:
    """What a decoder makes of the batch and of the prompts; leaves gradients behind."""
    tokens, mask = map(torch.from_numpy, batch())
    logits = model(input_ids=tokens, attention_mask=mask, position_ids=_positions(mask)).logits
    weights = mask[:, 1:] * mask[:, :-1]
    loss = _loss(logits[:, :-1], tokens[:, 1:], weights)
    asked, seen = map(torch.from_numpy, prompts())
    new = _generated(model, asked, seen)[:, asked.shape[1] :]
    return _results(logits, mask, loss, new)


def _answers(model: transformers.PreTrainedModel) -> dict[str, np.ndarray]:
    """What an encoder-decoder makes of sources and targets; leaves gradients behind."""
    model.generation_config.decoder_start_token_id = model.config.decoder_start_token_id
    model.generation_config.use_cache = (
        False  # transformers 5.23 has caches for as many blocks as the encoder's
    )
    asked, seen = map(torch.from_numpy, sources())
    read, said, mask = map(torch.from_numpy, targets())
    logits = model(
        input_ids=asked, attention_mask=seen, decoder_input_ids=read, decoder_attention_mask=mask
    ).logits
    loss = _loss(logits, said, mask)
    return _results(logits, mask, loss, _generated(model, asked, seen)[:, 1:])


def _cross_entropy(logits: torch.Tensor, said: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), said, reduction="none")
    return (losses * weights.float()).sum() / weights.float().sum()


def _loss(logits: torch.Tensor, said: torch.Tensor, weights: torch.Tensor) -> float:
    loss = _cross_entropy(logits, said, weights)
    loss.backward()
    return loss.item()


def _generated(model: transformers.PreTrainedModel, asked: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    lengths = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    return model.generate(input_ids=asked, attention_mask=seen, do_sample=False, num_beams=1, **lengths)


def _results(
    logits: torch.Tensor, mask: torch.Tensor, loss: float, new: torch.Tensor
) -> dict[str, np.ndarray]:
    return {
        "logits": logits.detach().numpy()[mask.numpy().astype(bool)],
        "loss": np.array(loss),
        "generated": new.numpy().astype(np.int32),
    }


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(1) - 1).clamp(min=0)


if __name__ == "__main__":
    main()
