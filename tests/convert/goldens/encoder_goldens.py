"""What transformers computes from the encoders of `encoder_cases.py`."""

from __future__ import annotations

import json

import numpy as np
import torch
import transformers

from tests.convert.goldens.cases import direction, weight
from tests.convert.goldens.encoder_cases import ENCODER_CASES, encoder_batch, targets


def make(name: str) -> transformers.PreTrainedModel:
    """The model of a case."""
    model_type, architecture, settings = ENCODER_CASES[name]
    config = transformers.AutoConfig.for_model(model_type, **settings)
    config._attn_implementation = "eager"
    config.architectures = [architecture]
    model = getattr(transformers, architecture)(config).eval()
    for path, parameter in model.named_parameters():
        parameter.data = torch.from_numpy(
            weight(path, tuple(parameter.shape), unit_offset=model_type.startswith("gemma"))
        )
    model.tie_weights()
    return model


def outputs(model: transformers.PreTrainedModel, name: str) -> dict[str, torch.Tensor]:
    """What a model computes from the batch of its case, by our names."""
    batch = {key: torch.from_numpy(array) for key, array in encoder_batch(name).items()}
    arguments = {"input_ids": batch["tokens"], "attention_mask": batch["mask"]}
    if "roberta" not in name:  # which counts over what is not padding by itself
        arguments["position_ids"] = batch["positions"]
    if "types" in batch:
        arguments["token_type_ids"] = batch["types"]
    result = model(**arguments, output_hidden_states=True)
    found = {"hidden_states": result.hidden_states[-1]}
    if "start_logits" in result:
        found["logits"] = torch.stack([result.start_logits, result.end_logits], dim=-1)
    for theirs, ours in (
        ("pooler_output", "pooled"),
        ("logits", "logits"),
        ("prediction_logits", "logits"),
        ("seq_relationship_logits", "next_sentence_logits"),
    ):
        if theirs in result:
            found[ours] = result[theirs]
    return found


def golden(name: str) -> dict[str, np.ndarray]:
    """Config and names, outputs, loss and gradients."""
    model = make(name)
    found = outputs(model, name)
    mask = torch.from_numpy(encoder_batch(name)["mask"])
    loss = _loss(found, mask)
    loss.backward()
    read = {path: p for path, p in model.named_parameters() if p.grad is not None}
    gradients = [
        [
            p.grad.norm().item(),
            float((p.grad.numpy().astype(np.float64) * direction(path, tuple(p.shape))).sum()),
        ]
        for path, p in read.items()
    ]
    return {
        "config": np.array(json.dumps(model.config.to_dict(), default=str)),
        "shapes": np.array(json.dumps({path: list(p.shape) for path, p in model.named_parameters()})),
        "loss": np.array(loss.item()),
        "names": np.array(list(read)),
        "gradients": np.array(gradients),
        **{f"output_{key}": value.detach().numpy() for key, value in found.items()},
    }


def _loss(found: dict[str, torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    """Cross-entropies of what heads say, each a mean over real tokens or rows; without a head, a product."""
    total = torch.zeros([])
    for key, value in found.items():
        weights = mask.float() if value.ndim == 3 else torch.ones(len(value))
        if key.endswith("logits"):
            aims = torch.from_numpy(targets(tuple(value.shape)))
            losses = torch.nn.functional.cross_entropy(value.flatten(0, -2), aims.flatten(), reduction="none")
            total = total + (losses * weights.flatten()).sum() / weights.sum()
        elif "logits" not in found:
            along = torch.from_numpy(direction(key, tuple(value.shape))).float()
            total = total + ((value * along).sum(-1) * weights).sum() / weights.sum()
    return total
