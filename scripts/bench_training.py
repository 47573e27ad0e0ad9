"""Training tokens a second and peak memory, tfllm beside KerasHub `fit`, in one run.

    python scripts/bench_training.py [--layers 6 --width 384 ...] [--rounds 5]

GPT-2 shapes, random tokens, float32, AdamW, both compiled by XLA; 13.9M parameters by default. Each system
runs in a process of its own, so that its peak memory is its own, and the two take turns, so that both meet
the same machine. The floor is 6 FLOPs a weight and token, and attention's, at the rate of a large product.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

SYSTEMS = ("tfllm", "keras_hub")


def main() -> None:
    arguments = _parse()
    if arguments.serve:
        return _serve(arguments)
    workers: dict[str, Any] = {}
    reports: dict[str, Any] = {}
    for name in SYSTEMS:  # one after the other, so that neither compiles beside the other
        workers[name] = _start(name)
        reports[name] = _read(workers[name])
    rates: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    for _ in range(arguments.rounds):
        for name, process in workers.items():
            process.stdin.write("go\n")
            process.stdin.flush()
            reports[name] = {**reports[name], **_read(process)}
            rates[name].append(reports[name]["rate"])
    for process in workers.values():
        process.stdin.close()
        process.wait()
    _print(arguments, reports, rates)


def _print(arguments: argparse.Namespace, reports: dict[str, Any], rates: dict[str, list[float]]) -> None:
    shape = f"V {arguments.vocab}, L {arguments.layers}, D {arguments.width}, S {arguments.seq_len}"
    print(f"{reports['tfllm']['parameters']:,} parameters ({shape}, B {arguments.batch}), tokens a second")
    print(f"{'':<12}{'median':>9}{'min':>9}{'max':>9}{'peak GB':>9}{'ratio':>7}{'start s':>9}")
    base = statistics.median(rates["keras_hub"])
    for name, values in rates.items():
        median = statistics.median(values)
        print(
            f"{name:<12}{median:>9.0f}{min(values):>9.0f}{max(values):>9.0f}"
            f"{reports[name]['peak_gb']:>9.2f}{median / base:>7.2f}{reports[name]['start_seconds']:>9.1f}"
        )
    floor = _peak_flops() / reports["tfllm"]["flops_per_token"]
    print(f"{'floor':<12}{floor:>9.0f}{'':>27}{floor / base:>7.2f}")


def _peak_flops() -> float:
    """Of this machine, now that the workers have ended."""
    from tfllm.commands.start import start_tensorflow
    from tfllm.training.throughput import peak_flops

    start_tensorflow()
    return peak_flops("float32")


def _serve(arguments: argparse.Namespace) -> None:
    """The worker: builds, warms up, then measures once for each line it reads."""
    from tfllm.commands.start import start_tensorflow

    start_tensorflow()
    begin = time.perf_counter()
    steps, report = {"tfllm": _tfllm, "keras_hub": _keras_hub}[arguments.serve](arguments)
    steps(2)
    _write({**report, "start_seconds": time.perf_counter() - begin})
    tokens = arguments.batch * arguments.seq_len * arguments.steps
    for _ in sys.stdin:
        begin = time.perf_counter()
        steps(arguments.steps)
        rate = tokens / (time.perf_counter() - begin)
        _write({"rate": rate, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6})


def _tfllm(arguments: argparse.Namespace) -> tuple[Callable[[int], None], dict[str, Any]]:
    import tensorflow as tf

    from tfllm.experiment import flops_per_token
    from tfllm.models.decoder import Decoder
    from tfllm.tasks.causal_lm import CausalLM
    from tfllm.training.optimizers import make_optimizer
    from tfllm.training.train_step import TrainStep

    model = Decoder(
        vocab_size=arguments.vocab,
        num_layers=arguments.layers,
        hidden_dim=arguments.width,
        num_heads=arguments.heads,
        max_seq_len=arguments.seq_len,
        norm="layer_norm",
        positions="learned",
        activation="gelu_tanh",
        use_bias=True,
    )
    model.build()
    optimizer = make_optimizer(
        "adamw", learning_rate=3e-4, weight_decay=0.1, variables=model.trainable_variables
    )
    strategy = tf.distribute.get_strategy()
    step = TrainStep(model=model, task=CausalLM(), optimizer=optimizer, strategy=strategy, clip_norm=1.0)
    token_ids, targets = _tokens(arguments)
    features = {"token_ids": token_ids, "targets": targets, "loss_weights": tf.ones(token_ids.shape)}
    iterator = iter(tf.data.Dataset.from_tensors(features).repeat())

    @tf.function
    def loop(count: tf.Tensor) -> tf.Tensor:
        def body(index, _):
            return index + 1, step(next(iterator))

        return tf.while_loop(lambda index, _: index < count, body, (tf.constant(0), tf.zeros([4])))[1]

    flops = flops_per_token(model, arguments.seq_len)
    report = {"parameters": model.count_params(), "flops_per_token": flops}

    def steps(count: int) -> None:
        loop(tf.constant(count)).numpy()

    return steps, report


def _keras_hub(arguments: argparse.Namespace) -> tuple[Callable[[int], None], dict[str, Any]]:
    import keras
    import keras_hub
    import tensorflow as tf

    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=arguments.vocab,
        num_layers=arguments.layers,
        num_heads=arguments.heads,
        hidden_dim=arguments.width,
        intermediate_dim=4 * arguments.width,
        dropout=0.0,
        max_sequence_length=arguments.seq_len,
    )
    model = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    model.compile(
        optimizer=keras.optimizers.AdamW(3e-4, weight_decay=0.1, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True,
    )
    token_ids, targets = _tokens(arguments)
    features = {"token_ids": token_ids, "padding_mask": tf.ones_like(token_ids)}
    dataset = tf.data.Dataset.from_tensors((features, targets)).repeat()

    def steps(count: int) -> None:
        model.fit(dataset, steps_per_epoch=count, epochs=1, verbose=0)

    return steps, {"parameters": model.count_params()}


def _tokens(arguments: argparse.Namespace) -> tuple[Any, Any]:
    import tensorflow as tf

    shape = [arguments.batch, arguments.seq_len + 1]
    tokens = tf.random.stateless_uniform(shape, [0, 0], 0, arguments.vocab, tf.int32)
    return tokens[:, :-1], tokens[:, 1:]


def _start(name: str) -> Any:
    command = [sys.executable, os.path.abspath(__file__), *sys.argv[1:], "--serve", name]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "tensorflow"}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def _read(process: Any) -> dict[str, Any]:
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise SystemExit(f"a worker ended with status {process.wait()}; its message is above")


def _write(report: dict[str, Any]) -> None:
    print(json.dumps(report), flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default, words in (
        ("vocab", 8192, "tokens"),
        ("layers", 6, "blocks"),
        ("width", 384, "hidden width"),
        ("heads", 6, "attention heads"),
        ("seq-len", 256, "tokens a row"),
        ("batch", 8, "rows a step"),
        ("steps", 8, "steps a round"),
        ("rounds", 5, "rounds each"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{words} (default {default})")
    parser.add_argument("--serve", choices=SYSTEMS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
