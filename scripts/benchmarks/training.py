"""Training tokens a second and peak memory beside KerasHub `fit` and PyTorch's transformers, in one run.

    python -m scripts.benchmarks.training [--shape 124m] [--peers ~/peers/bin/python]

GPT-2 shapes, the same random tokens, float32 or --precision, AdamW, gradients clipped to norm 1, no dropout;
tfllm and KerasHub compiled by XLA, transformers eager and under torch.compile, with its fused optimizer. Each
system runs in a process of its own, so that its peak memory is its own, and they take turns, so that all meet
the same machine. On a GPU the memory is the GPU's, and float32 multiplies with factors in TF32 in all systems.
`peers` is the interpreter of an environment with PyTorch and transformers:

    python -m venv ~/peers && ~/peers/bin/pip install torch transformers

MFU counts 6 FLOPs a weight and token, and attention's, against the better of TensorFlow's and PyTorch's
rates for a product of two 2048 x 2048 matrices; the floor is what that rate would allow.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

from scripts.benchmarks.worker import Report, Worker, in_turns, usable_cores

OURS = ("tfllm", "keras_hub", "tensorflow_product")
PEERS = ("transformers", "torch_compile", "torch_product")
SHAPES = {
    "13.9m": {"vocab": 8192, "layers": 6, "width": 384, "heads": 6, "seq_len": 256, "batch": 8},
    "124m": {"vocab": 50257, "layers": 12, "width": 768, "heads": 12, "seq_len": 512, "batch": 2},
}
DIMENSIONS = ("vocab", "layers", "width", "heads", "seq_len", "batch")


def main() -> None:
    arguments = _parse()
    settings = _settings(arguments)
    workers = {}
    for name in _systems(arguments):  # one after the other, so that none compiles beside another
        peer = name in PEERS
        workers[name] = Worker(
            arguments.peers if peer else sys.executable,
            f"scripts.benchmarks.training_{'torch' if peer else 'tensorflow'}",
            {**settings, "system": name},
            threads=arguments.threads,
        )
    rounds = in_turns(workers, arguments.rounds)
    for worker in workers.values():
        worker.close()
    _print(settings, {name: worker.report for name, worker in workers.items()}, rounds)


def _print(settings: Report, ready: dict[str, Report], rounds: dict[str, list[Report]]) -> None:
    shape = ", ".join(f"{name} {settings[name]}" for name in DIMENSIONS)
    print(f"{ready['tfllm']['parameters']:,} parameters ({shape}); tokens a second")
    flops, peak = ready["tfllm"]["flops_per_token"], _peak_flops(rounds)
    rates = {name: _rates(settings, reports) for name, reports in rounds.items() if "loss" in reports[0]}
    base_name = "torch_compile" if "torch_compile" in rates else "keras_hub"
    base, base_gb = statistics.median(rates[base_name]), _peak_gb(rounds[base_name][-1])
    titles = ("median", "min", "max", "MFU", "ratio", "peak GB", "ratio", "start s", "loss: first", "last")
    print(f"{'':<15}" + "".join(f"{title:>9}" for title in titles[:-2]) + f"{titles[-2]:>13}{titles[-1]:>9}")
    for name, values in rates.items():
        median, last = statistics.median(values), rounds[name][-1]
        print(
            f"{name:<15}{median:>9.0f}{min(values):>9.0f}{max(values):>9.0f}{median * flops / peak:>9.1%}"
            f"{median / base:>9.2f}{_peak_gb(last):>9.2f}{_peak_gb(last) / base_gb:>9.2f}"
            f"{ready[name]['start_seconds']:>9.1f}{ready[name]['first_loss']:>13.3f}{last['loss']:>9.3f}"
        )
    print(f"{'floor':<15}{peak / flops:>9.0f}{'':>18}{1:>9.1%}{peak / flops / base:>9.2f}")
    print(f"ratios: over {base_name}; keras_hub's last loss is its last round's mean")


def _peak_gb(report: Report) -> float:
    """Of the GPU, or of the process where there is none."""
    return report["device_gb"] if "device_gb" in report else report["peak_gb"]


def _rates(settings: Report, reports: list[Report]) -> list[float]:
    tokens = settings["batch"] * settings["seq_len"] * settings["steps"]
    return [tokens / report["seconds"] for report in reports]


def _peak_flops(rounds: dict[str, list[Report]]) -> float:
    best = {
        name: max(report["flops"] for report in reports)
        for name, reports in rounds.items()
        if "flops" in reports[0]
    }
    words = ", ".join(f"{name.partition('_')[0]} {flops / 1e9:.0f}" for name, flops in best.items())
    print(f"GFLOP/s of a large product: {words}; the larger one is the floor's and MFU's")
    return max(best.values())


def _systems(arguments: argparse.Namespace) -> tuple[str, ...]:
    return OURS if arguments.peers is None else (*OURS, *PEERS)


def _settings(arguments: argparse.Namespace) -> Report:
    given = {name: getattr(arguments, name) for name in DIMENSIONS if getattr(arguments, name) is not None}
    model = {"remat": arguments.remat, "attention_block_size": arguments.attention_block_size}
    task = {"loss_chunk_tokens": arguments.loss_chunk_tokens}
    return {
        **SHAPES[arguments.shape],
        **given,
        "steps": arguments.steps,
        "precision": arguments.precision,
        "model": _without_none(model),
        "task": _without_none(task),
    }


def _without_none(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shape", choices=SHAPES, default="13.9m", help="model and batch (default %(default)s)"
    )
    for name, words in zip(
        DIMENSIONS,
        ("tokens", "blocks", "hidden width", "attention heads", "tokens a row", "rows a step"),
        strict=True,
    ):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"{words}, in place of the shape's")
    for name, default, words in (
        ("steps", 8, "steps a round"),
        ("rounds", 5, "rounds each"),
        ("threads", usable_cores(), "threads each"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{words} (default {default})")
    parser.add_argument(
        "--precision",
        choices=("float32", "mixed_bfloat16"),
        default="float32",
        help="training.precision, torch.autocast (default %(default)s)",
    )
    parser.add_argument("--peers", metavar="PYTHON", help="run the PyTorch systems too, by this interpreter")
    ours = parser.add_argument_group("options of tfllm alone")
    ours.add_argument("--remat", help="what the backward pass computes again")
    ours.add_argument("--attention-block-size", type=int, help="tokens whose attention is computed at once")
    ours.add_argument("--loss-chunk-tokens", type=int, help="tokens whose logits exist at once")
    return parser.parse_args()


if __name__ == "__main__":
    main()
