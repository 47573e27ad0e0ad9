"""Makes the goldens of adapters: what PEFT computes and writes for the cases of `adapter_cases.py`.

pip install torch==2.13.0 transformers==5.24.0 peft==0.21.2
python tests/convert/goldens/make_adapter_goldens.py [--to FOLDER]
python tests/convert/goldens/make_adapter_goldens.py --open FOLDER --cases CASE --to RESULT

The second opens an adapter beside the base of a case, and writes what the model computes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import numpy as np
import peft
import torch
import transformers

from tests.convert.goldens import encoder_goldens, make_goldens
from tests.convert.goldens.adapter_cases import ADAPTER_CASES, adapter_weight
from tests.convert.goldens.cases import batch, direction
from tests.convert.goldens.encoder_cases import ENCODER_CASES, encoder_batch
from tests.convert.goldens.encoder_decoder_cases import ENCODER_DECODER_CASES, sources, targets


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, default=Path(__file__).parent)
    parser.add_argument("--open", type=Path)
    parser.add_argument("--cases", nargs="+", choices=ADAPTER_CASES, default=list(ADAPTER_CASES))
    options = parser.parse_args()
    if options.open is not None:
        [name] = options.cases
        case = ADAPTER_CASES[name][0]
        model = peft.PeftModel.from_pretrained(base_of(case), options.open).eval()
        with torch.no_grad():
            np.savez(options.to, **{k: v.numpy() for k, v in outputs(model, case)[0].items()})
        return
    for name in options.cases:
        np.savez_compressed(options.to / f"{name}.npz", **golden(name))
        print(name)


def base_of(case: str) -> transformers.PreTrainedModel:
    """The base of a case."""
    return (encoder_goldens if case in ENCODER_CASES else make_goldens).make(case)


def golden(name: str) -> dict[str, np.ndarray]:
    """What is written, but for the numbers, which follow from the names; and outputs, loss and gradients."""
    case, settings = ADAPTER_CASES[name]
    kind = peft.AdaLoraConfig if "init_r" in settings else peft.LoraConfig
    model = peft.get_peft_model(base_of(case), kind(**settings)).eval()
    drawn = {
        key: torch.from_numpy(adapter_weight(key, tuple(tensor.shape)))
        for key, tensor in peft.get_peft_model_state_dict(model).items()
    }
    peft.set_peft_model_state_dict(model, drawn)
    found, loss = outputs(model, case)
    loss.backward()
    gradients = {
        key.replace(".default", "").replace(".modules_to_save", ""): p.grad.numpy().astype(np.float64)
        for key, p in model.named_parameters()
        if p.grad is not None
    }
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        text = (Path(folder) / "adapter_config.json").read_text()
    config = {**json.loads(text), "base_model_name_or_path": None}
    return {
        "adapter_config": np.array(json.dumps(config)),
        "shapes": np.array(json.dumps({key: list(tensor.shape) for key, tensor in drawn.items()})),
        "loss": np.array(loss.item()),
        "names": np.array(list(gradients)),
        "gradients": np.array(
            [[np.linalg.norm(g), float((g * direction(k, g.shape)).sum())] for k, g in gradients.items()]
        ),
        **{f"output_{key}": value.detach().numpy() for key, value in found.items()},
    }


def outputs(model: peft.PeftModel, case: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What a model computes from the batch of its base's case, by our names, and a loss."""
    if case in ENCODER_CASES:
        found = encoder_goldens.outputs(model.base_model.model, case)
        mask = torch.from_numpy(encoder_batch(case)["mask"])
        return found, encoder_goldens._loss(found, mask)
    if case in ENCODER_DECODER_CASES:
        asked, seen = map(torch.from_numpy, sources())
        read, said, mask = map(torch.from_numpy, targets())
        given = {"input_ids": asked, "attention_mask": seen, "decoder_input_ids": read}
        logits = model(**given, decoder_attention_mask=mask).logits
        return {"logits": logits[mask.bool()]}, make_goldens._cross_entropy(logits, said, mask)
    tokens, mask = map(torch.from_numpy, batch())
    logits = model(input_ids=tokens, attention_mask=mask, position_ids=make_goldens._positions(mask)).logits
    loss = make_goldens._cross_entropy(logits[:, :-1], tokens[:, 1:], mask[:, 1:] * mask[:, :-1])
    return {"logits": logits[mask.bool()]}, loss


if __name__ == "__main__":
    main()
