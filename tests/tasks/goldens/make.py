"""Makes the goldens of this folder: losses and gradients as transformers and sentence-transformers have them.

pip install torch==2.13.0 transformers==5.23.0 sentence-transformers==6.2.0
python tests/tasks/goldens/make.py [--to FOLDER]
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
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from tests.convert.goldens.cases import direction, weight
from tests.tasks.goldens.cases import BERT, pretraining_batch, vectors


def pretraining() -> dict[str, np.ndarray]:
    """The loss of BertForPreTraining, and its gradients, each by its length and a product."""
    config = transformers.BertConfig(**BERT, architectures=["BertForPreTraining"])
    config._attn_implementation = "eager"
    model = transformers.BertForPreTraining(config).eval()
    for path, parameter in model.named_parameters():
        parameter.data = torch.from_numpy(weight(path, tuple(parameter.shape), unit_offset=False))
    model.tie_weights()
    batch = {name: torch.from_numpy(array) for name, array in pretraining_batch().items()}
    said = model(
        input_ids=batch["tokens"],
        token_type_ids=batch["types"],
        labels=batch["labels"],
        next_sentence_label=batch["follows"],
    )
    said.loss.backward()
    read = {path: p for path, p in model.named_parameters() if p.grad is not None}
    return {
        "loss": np.array(said.loss.item()),
        "shapes": np.array(json.dumps({path: list(p.shape) for path, p in read.items()})),
        "gradients": np.array(
            [
                [p.grad.norm().item(), (p.grad.double().numpy() * direction(path, tuple(p.shape))).sum()]
                for path, p in read.items()
            ]
        ),
    }


def ranking() -> dict[str, np.ndarray]:
    """Losses of vectors and gradients by them: one direction, with and without hard negatives, and both."""
    found = {}
    both = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    for name, settings, count in (("anchors", {}, 2), ("negatives", {}, 3), ("both", both, 2)):
        given = [torch.from_numpy(each).requires_grad_() for each in vectors()[:count]]
        ranking_loss = MultipleNegativesRankingLoss(torch.nn.Identity(), scale=20.0, **settings)
        loss = ranking_loss.compute_loss_from_embeddings(given, None)
        loss.backward()
        found[f"{name}_loss"] = np.array(loss.item())
        found[f"{name}_gradients"] = np.stack([each.grad.numpy() for each in given])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=Path(__file__).parent)
    folder = parser.parse_args().to
    np.savez_compressed(folder / "pretraining.npz", **pretraining())
    np.savez_compressed(folder / "ranking.npz", **ranking())


if __name__ == "__main__":
    main()
