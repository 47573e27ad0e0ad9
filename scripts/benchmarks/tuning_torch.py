"""The systems of `tuning.py` that need PyTorch, transformers and peft; it starts this module itself."""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
import transformers

from scripts.benchmarks.worker import Report, serve


def main() -> None:
    serve(_build, sys.argv[1:])


def _build(settings: Report):
    torch.set_num_threads(settings["threads"])
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    system = settings["system"]
    model = _model(settings, torch.bfloat16 if system == "peft_bfloat16" else torch.float32)
    if system != "torch_full":
        model = _adapted(model, settings["rank"])
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, 3e-4, weight_decay=0.1, fused=True)
    run = model if system == "peft_eager" else torch.compile(model)
    tokens = np.random.default_rng(0).integers(
        settings["vocab"], size=[settings["batch"], settings["seq_len"] + 1]
    )
    token_ids = torch.from_numpy(tokens[:, :-1].copy())

    def step() -> float:
        loss = run(input_ids=token_ids, labels=token_ids).loss  # the model shifts the labels itself
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def measure() -> Report:
        begin = time.perf_counter()
        for _ in range(settings["steps"]):
            loss = step()
        return {"loss": loss, "seconds": time.perf_counter() - begin}

    first_loss = step()
    step()
    return measure, {
        "first_loss": first_loss,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained": sum(parameter.numel() for parameter in trained),
        "base_gb": sum(p.numel() * p.element_size() for p in model.parameters()) / 1e9,
    }


def _model(settings: Report, dtype: torch.dtype) -> transformers.LlamaForCausalLM:
    config = transformers.LlamaConfig(
        vocab_size=settings["vocab"],
        num_hidden_layers=settings["layers"],
        hidden_size=settings["hidden_dim"],
        intermediate_size=settings["intermediate_dim"],
        num_attention_heads=settings["heads"],
        num_key_value_heads=settings["kv_heads"],
        max_position_embeddings=settings["seq_len"],
        tie_word_embeddings=True,
        use_cache=False,
        attn_implementation="sdpa",
        dtype=dtype,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # so that it is never there in float32
    model = transformers.LlamaForCausalLM(config)
    torch.set_default_dtype(before)
    return model


def _adapted(model: transformers.LlamaForCausalLM, rank: int) -> torch.nn.Module:
    import peft

    return peft.get_peft_model(
        model,
        peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"),
    )


if __name__ == "__main__":
    main()
