"""The systems of `tuning.py` that need TensorFlow; it starts this module itself."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from scripts.benchmarks.worker import Report, serve
from tfllm.commands.start import start_tensorflow


def main() -> None:
    serve(_build, sys.argv[1:])


def _build(settings: Report):
    start_tensorflow()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
    return _product() if settings["system"] == "product" else _training(settings)


def _product():
    from tfllm.training.throughput import peak_flops

    return lambda: {"flops": peak_flops("float32")}, {}


def _training(settings: Report):
    import tensorflow as tf

    from scripts.benchmarks.gpt2_tensorflow import make_step
    from tfllm.experiment import flops_per_token
    from tfllm.tasks.causal_lm import CausalLM
    from tfllm.training.train_step import METRICS

    model = _model(settings)
    step = make_step(model, CausalLM())
    tokens = np.random.default_rng(0).integers(
        settings["vocab"], size=[settings["batch"], settings["seq_len"] + 1]
    )
    features = {"token_ids": tokens[:, :-1].astype(np.int32), "targets": tokens[:, 1:].astype(np.int32)}
    features["loss_weights"] = np.ones(features["targets"].shape, "float32")
    call = tf.function(lambda: step(features))

    def train(count: int) -> float:
        for _ in range(count):
            metrics = dict(zip(METRICS, call().numpy().tolist(), strict=True))
        return metrics["loss_sum"] / metrics["weight_sum"]

    def measure() -> Report:
        begin = time.perf_counter()
        loss = train(settings["steps"])
        return {"loss": loss, "seconds": time.perf_counter() - begin}

    first_loss = train(1)
    train(1)
    return measure, {
        "first_loss": first_loss,
        "parameters": model.count_params(),
        "trained": sum(int(np.prod(v.shape)) for v in model.trainable_variables),
        "base_gb": sum(int(np.prod(v.shape)) * tf.as_dtype(v.dtype).size for v in model.variables) / 1e9,
        "flops_per_token": flops_per_token(model, settings["seq_len"]),
    }


def _model(settings: Report) -> Any:
    import tensorflow as tf

    from tfllm.layers.stored_kernel import KernelPolicy
    from tfllm.models.decoder import Decoder
    from tfllm.peft.lora import Lora

    name, _, dtype = settings["system"].partition("_")
    tf.keras.utils.set_random_seed(0)
    model = Decoder(
        vocab_size=settings["vocab"],
        num_layers=settings["layers"],
        hidden_dim=settings["hidden_dim"],
        intermediate_dim=settings["intermediate_dim"],
        num_heads=settings["heads"],
        num_kv_heads=settings["kv_heads"],
        max_seq_len=settings["seq_len"],
        tie_embeddings=True,
        remat=settings["remat"] or "none",
        dtype=KernelPolicy("float32", dtype) if dtype else "float32",
    )
    model.build()
    if name == "lora":
        rng = np.random.default_rng(0)
        for variable in model.variables if dtype else ():
            if variable.path.endswith("kernel"):
                variable.assign(rng.standard_normal(variable.shape, np.float32) * 0.02)
        Lora(rank=settings["rank"], alpha=2.0 * settings["rank"]).attach(model)
    return model


if __name__ == "__main__":
    main()
