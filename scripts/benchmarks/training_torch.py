"""The systems of `training.py` that need PyTorch and transformers; it starts this module itself."""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from scripts.benchmarks import gpt2_torch
from scripts.benchmarks.worker import Report, serve

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    serve(_build, sys.argv[1:])


def _build(settings: Report):
    gpt2_torch.start(settings)
    torch.set_float32_matmul_precision("high")  # TF32 where a GPU has it, as TensorFlow does by itself
    return (_product if settings["system"] == "torch_product" else _training)(settings)


def _training(settings: Report):
    model = gpt2_torch.make_model(settings).train().to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4, weight_decay=0.1, fused=True)
    run = torch.compile(model) if settings["system"] == "torch_compile" else model
    tokens = np.random.default_rng(0).integers(
        settings["vocab"], size=[settings["batch"], settings["seq_len"] + 1]
    )
    token_ids = torch.from_numpy(tokens[:, :-1].copy()).to(DEVICE)
    half = {"mixed_bfloat16": torch.bfloat16, "mixed_float16": torch.float16}.get(settings["precision"])

    def step() -> torch.Tensor:
        with torch.autocast(DEVICE, dtype=half, enabled=half is not None):
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
        return {"loss": loss.item(), "seconds": time.perf_counter() - begin, **_device_peak()}

    first_loss = step().item()
    step().item()
    _device_peak(reset=True)  # of steps, not of what compiles them
    return measure, {"first_loss": first_loss, "parameters": model.num_parameters()}


def _device_peak(*, reset: bool = False) -> Report:
    """The most memory that a GPU has held."""
    if DEVICE == "cpu":
        return {}
    peak = torch.cuda.max_memory_allocated()
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return {"device_gb": peak / 1e9}


def _product(settings: Report):
    """The rate of a large product, in FLOP/s: the best of six."""
    size = 2048 if DEVICE == "cpu" else 8192
    a = torch.randn(size, size, device=DEVICE)

    def measure() -> Report:
        best = float("inf")
        for _ in range(6):
            begin = time.perf_counter()
            (a @ a).sum().item()
            best = min(best, time.perf_counter() - begin)
        return {"flops": 2.0 * size**3 / best}

    return measure, {}


if __name__ == "__main__":
    main()
