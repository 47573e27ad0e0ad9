"""Peak memory of a training step, measured beside what `tfllm inspect` estimates.

    python -m scripts.benchmarks.memory [--only NAME ...] [--steps 3]

Each row trains a few steps on random tokens in a process of its own, whose peak (ru_maxrss) holds Python,
TensorFlow, XLA's compiler and the step. What the process takes before it has a model is measured, and is the
estimate's `framework`; all else is computed. Rows of a group differ in memory only, so their losses must
be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

from scripts import ROOT

LARGE_VOCAB = {
    "vocab_size": 49152,
    "num_layers": 2,
    "hidden_dim": 384,
    "num_heads": 6,
    "rows": 8,
    "seq_len": 256,
}
DEEP = {"vocab_size": 512, "num_layers": 6, "hidden_dim": 384, "num_heads": 6, "rows": 8, "seq_len": 512}
LONG = {"vocab_size": 512, "num_layers": 2, "hidden_dim": 192, "num_heads": 3, "rows": 1, "seq_len": 4096}
GPT = {"norm": "layer_norm", "positions": "learned", "activation": "gelu_tanh", "use_bias": True}
SMALL_GPT = {
    "vocab_size": 8192,
    "num_layers": 6,
    "hidden_dim": 384,
    "num_heads": 6,
    "rows": 8,
    "seq_len": 256,
}
GPT_2 = {"vocab_size": 50257, "num_layers": 12, "hidden_dim": 768, "num_heads": 12, "rows": 2, "seq_len": 512}
ROWS: dict[str, dict[str, Any]] = {
    "vocabulary, all logits": {**LARGE_VOCAB, "loss_chunk_tokens": 2048},
    "vocabulary, chunks": {**LARGE_VOCAB, "loss_chunk_tokens": None},
    "deep, remat none": {**DEEP, "remat": "none"},
    "deep, remat attention": {**DEEP, "remat": "attention"},
    "deep, remat block": {**DEEP, "remat": "block"},
    "deep, 4 microbatches": {**DEEP, "num_microbatches": 4},
    "long, whole rows": {**LONG},
    "long, remat attention": {**LONG, "remat": "attention"},
    "long, blocks of 512": {**LONG, "attention_block_size": 512},
    "gpt of 13.9m": {**SMALL_GPT, **GPT},
    "gpt-2 of 124m": {**GPT_2, **GPT},
}
_STEP = ("rows", "seq_len", "loss_chunk_tokens", "num_microbatches")


def main() -> None:
    arguments = _parse()
    if arguments.worker:
        return _work(json.loads(arguments.worker), arguments.steps)
    print(f"{'':<26}{'peak MB':>9}{'estimate':>10}{'error':>8}{'loss':>12}{'ms a step':>11}")
    for name, row in ROWS.items():
        if not arguments.only or any(part in name for part in arguments.only):
            _print(name, _run(row, arguments.steps))


def _print(name: str, report: dict[str, Any]) -> None:
    estimate = sum(report["estimate"].values())
    print(
        f"{name:<26}{report['peak'] / 1e6:>9.0f}{estimate / 1e6:>10.0f}{estimate / report['peak'] - 1:>8.1%}"
        f"{report['loss']:>12.6f}{report['milliseconds']:>11.0f}"
    )
    print(
        "    " + ", ".join(f"{part} {size / 1e6:.0f}" for part, size in report["estimate"].items()),
        flush=True,
    )


def _run(row: dict[str, Any], steps: int) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "scripts.benchmarks.memory",
        "--steps",
        str(steps),
        "--worker",
        json.dumps(row),
    ]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "tensorflow"}
    process = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment, check=True
    )
    return json.loads(process.stdout.splitlines()[-1])


def _work(row: dict[str, Any], steps: int) -> None:
    from tfllm.commands.start import start_tensorflow

    start_tensorflow()
    import keras
    import tensorflow as tf

    from tfllm.experiment import step_shape
    from tfllm.models.decoder import Decoder
    from tfllm.tasks.causal_lm import CausalLM
    from tfllm.training.memory import compiler_bytes, estimate, optimizer_bytes
    from tfllm.training.optimizers import make_optimizer
    from tfllm.training.peak_memory import peak_memory_bytes
    from tfllm.training.train_step import TrainStep, metrics_by_name
    from tfllm.training.update_rules import AdamW

    started = peak_memory_bytes()
    arguments = {name: value for name, value in row.items() if name not in _STEP}
    keras.utils.set_random_seed(0)
    model = Decoder(**arguments, max_seq_len=row["seq_len"])
    model.build()
    optimizer = make_optimizer(AdamW(), learning_rate=1e-3, variables=model.trainable_variables)
    count = row.get("num_microbatches", 1)
    step = TrainStep(
        model=model,
        task=CausalLM(loss_chunk_tokens=row.get("loss_chunk_tokens")),
        optimizer=optimizer,
        strategy=tf.distribute.get_strategy(),
        clip_norm=1.0,
        num_microbatches=count,
    )
    tokens = tf.random.stateless_uniform(
        [row["rows"], row["seq_len"] + 1], [0, 0], 0, row["vocab_size"], tf.int32
    )
    features = {
        "token_ids": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "loss_weights": tf.ones_like(tokens[:, 1:], tf.float32),
    }
    call = tf.function(step)
    for _ in range(steps):
        start = time.perf_counter()
        metrics = call(features).numpy()
        seconds = time.perf_counter() - start
    shape = step_shape(
        model,
        rows=row["rows"] // count,
        seq_len=row["seq_len"],
        loss_chunk_tokens=row.get("loss_chunk_tokens"),
        num_microbatches=count,
    )
    state = optimizer_bytes(AdamW(), model.trainable_variables)
    named = metrics_by_name(metrics)
    report = {
        "peak": peak_memory_bytes(),
        "loss": named["loss_sum"] / named["weight_sum"],
        "milliseconds": 1000 * seconds,
        "estimate": estimate(
            shape,
            weights=4 * model.count_params(),
            trained=model.count_params(),
            optimizer_state=state,
            framework=started,
            compiler=compiler_bytes(shape, model.trainable_variables),
        ),
    }
    print(json.dumps(report))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", help="rows whose name holds one of these")
    parser.add_argument("--steps", type=int, default=3, help="steps before the peak is read (default 3)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
