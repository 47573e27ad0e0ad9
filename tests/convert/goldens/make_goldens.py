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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, default=Path(__file__).parent)
    known = [*CASES, *ENCODER_CASES]
    parser.add_argument("--cases", nargs="+", choices=known, default=known)
    options = parser.parse_args()
    for name in options.cases:
        make_golden = encoder_goldens.golden if name in ENCODER_CASES else golden
        np.savez_compressed(options.to / f"{name}.npz", **make_golden(name))
        print(name)


def make(name: str) -> transformers.PreTrainedModel:
    """The model of a case."""
    model_type, settings = CASES[name]
    config = transformers.AutoConfig.for_model(model_type, **settings)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for path, parameter in model.named_parameters():
        values = weight(
            stored_name(name, path), tuple(parameter.shape), unit_offset=model_type.startswith("gemma")
        )
        parameter.data = torch.from_numpy(values)
    model.tie_weights()
    return model


def stored_name(name: str, path: str) -> str:
    """What the files call a parameter; transformers 5 renames GPT-NeoX's output layer as it reads."""
    return path.replace("lm_head.", "embed_out.") if CASES[name][0] == "gpt_neox" else path


def golden(name: str) -> dict[str, np.ndarray]:
    """Config and names, logits, loss, gradients, and greedy continuations."""
    model = make(name)
    tokens, mask = map(torch.from_numpy, batch())
    logits = model(input_ids=tokens, attention_mask=mask, position_ids=_positions(mask)).logits
    weights = (mask[:, 1:] * mask[:, :-1]).float()
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none"
    )
    loss = (losses * weights).sum() / weights.sum()
    loss.backward()
    parameters = {stored_name(name, path): p for path, p in model.named_parameters()}
    gradients = [
        [
            p.grad.norm().item(),
            float((p.grad.numpy().astype(np.float64) * direction(path, tuple(p.shape))).sum()),
        ]
        for path, p in parameters.items()
    ]
    asked, seen = map(torch.from_numpy, prompts())
    model.generation_config = transformers.GenerationConfig(eos_token_id=None, pad_token_id=0)
    new = model.generate(
        input_ids=asked,
        attention_mask=seen,
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
    )
    shapes = {path: list(p.shape) for path, p in parameters.items()}
    return {
        "config": np.array(json.dumps(model.config.to_dict(), default=str)),
        "shapes": np.array(json.dumps(shapes)),
        "logits": logits.detach().numpy()[mask.numpy().astype(bool)],
        "loss": np.array(loss.item()),
        "names": np.array(list(parameters)),
        "gradients": np.array(gradients),
        "generated": new[:, asked.shape[1] :].numpy().astype(np.int32),
    }


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(1) - 1).clamp(min=0)


if __name__ == "__main__":
    main()
