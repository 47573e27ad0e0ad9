"""The systems of `bench_training.py` that need PyTorch and transformers; it starts this file itself."""

from __future__ import annotations

import os
import sys
import time

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import numpy as np
import torch
import transformers

from scripts.bench_worker import Report, serve


def main() -> None:
    serve(_build, sys.argv[1:])


def _build(settings: Report):
    torch.set_num_threads(settings["threads"])
    transformers.logging.set_verbosity_error()
    return (_product if settings["system"] == "torch_product" else _training)(settings)


def _training(settings: Report):
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(_config(settings)).train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4, weight_decay=0.1, fused=True)
    run = torch.compile(model) if settings["system"] == "torch_compile" else model
    tokens = np.random.default_rng(0).integers(
        settings["vocab"], size=[settings["batch"], settings["seq_len"] + 1]
    )
    token_ids = torch.from_numpy(tokens[:, :-1].copy())

    def step() -> torch.Tensor:
        loss = run(input_ids=token_ids, labels=token_ids).loss  # the model shifts the labels itself
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def measure() -> Report:
        begin = time.perf_counter()
        for _ in range(settings["steps"]):
            loss = step()
        return {"loss": loss.item(), "seconds": time.perf_counter() - begin}

    first_loss = step().item()
    step()
    return measure, {"first_loss": first_loss, "parameters": model.num_parameters()}


def _config(settings: Report) -> transformers.GPT2Config:
    return transformers.GPT2Config(
        vocab_size=settings["vocab"],
        n_positions=settings["seq_len"],
        n_embd=settings["width"],
        n_layer=settings["layers"],
        n_head=settings["heads"],
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
        attn_implementation="sdpa",
    )


def _product(settings: Report):
    """The rate of a large product, in FLOP/s: the best of six."""
    a = torch.randn(2048, 2048)

    def measure() -> Report:
        best = float("inf")
        for _ in range(6):
            begin = time.perf_counter()
            (a @ a).sum().item()
            best = min(best, time.perf_counter() - begin)
        return {"flops": 2.0 * 2048**3 / best}

    return measure, {}


if __name__ == "__main__":
    main()
