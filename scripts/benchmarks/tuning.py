"""LoRA beside tuning all of a model, and beside transformers with PEFT: tokens a second and peak memory, in one run.

    python -m scripts.benchmarks.tuning [--peers ~/peers/bin/python] [--systems lora full ...] [--hidden-dim 2048 ...]

A Llama of SmolLM2-135M's shape by default, with random weights, the same random tokens, rank 16 beside every projection
of every block, AdamW, gradients clipped to norm 1, no dropout, arithmetic in float32. Of tfllm all of it is trained
(`full`), or LoRA over a base in float32, bfloat16 and int8 (`peft.base_dtype`), compiled by XLA; of transformers all of
it, and LoRA by PEFT, both under torch.compile and with the fused optimizer; and LoRA eager, and compiled over a base in
bfloat16, whose arithmetic is then in it too. Each system runs in a process of its own, so that its peak memory is its
own, and they take turns; `--systems` names some of them where the machine does not hold all. The floor of time is
arithmetic at the rate of a large product, of memory the base alone.
`peers` is the interpreter of an environment with PyTorch, transformers and peft.
"""

from __future__ import annotations

import argparse
import statistics
import sys

from scripts.benchmarks.worker import Report, Worker, in_turns, usable_cores

OURS = ("full", "lora", "lora_bfloat16", "lora_int8", "product")
PEERS = ("torch_full", "peft", "peft_eager", "peft_bfloat16")
SHAPE = {
    "vocab": (49152, "tokens"),
    "layers": (30, "blocks"),
    "hidden-dim": (576, "hidden width"),
    "intermediate-dim": (1536, "width of the feed-forward"),
    "heads": (9, "attention heads"),
    "kv-heads": (3, "heads of keys and values"),
    "seq-len": (256, "tokens a row"),
    "batch": (4, "rows a step"),
    "rank": (16, "of LoRA"),
}


def main() -> None:
    """Print a line a system."""
    arguments = _parse()
    sizes = {name.replace("-", "_"): getattr(arguments, name.replace("-", "_")) for name in SHAPE}
    settings = {**sizes, "steps": arguments.steps, "remat": arguments.remat}
    workers = {}
    for name in arguments.systems or (*OURS, *(PEERS if arguments.peers else ())):
        peer = name in PEERS
        module = f"scripts.benchmarks.tuning_{'torch' if peer else 'tensorflow'}"
        python = arguments.peers if peer else sys.executable
        workers[name] = Worker(python, module, {**settings, "system": name}, threads=arguments.threads)
    rounds = in_turns(workers, arguments.rounds)
    for worker in workers.values():
        worker.close()
    _print(settings, {name: worker.report for name, worker in workers.items()}, rounds)


def _print(settings: Report, ready: dict[str, Report], rounds: dict[str, list[Report]]) -> None:
    print(", ".join(f"{name} {value}" for name, value in settings.items()))
    product = rounds.pop("product", None)
    titles = ("median", "min", "max", "peak GB", "base GB", "start s", "trained M", "of M")
    print(
        f"{'tokens a second':<16}"
        + "".join(f"{title:>10}" for title in titles)
        + f"{'loss: first':>13}{'last':>9}"
    )
    tokens = settings["batch"] * settings["seq_len"] * settings["steps"]
    for name, reports in rounds.items():
        rates = [tokens / report["seconds"] for report in reports]
        about, last = ready[name], reports[-1]
        print(
            f"{name:<16}{statistics.median(rates):>10.0f}{min(rates):>10.0f}{max(rates):>10.0f}"
            f"{last['peak_gb']:>10.2f}{about['base_gb']:>10.2f}{about['start_seconds']:>10.1f}"
            f"{about['trained'] / 1e6:>10.1f}{about['parameters'] / 1e6:>10.1f}"
            f"{about['first_loss']:>13.3f}{last['loss']:>9.3f}"
        )
        if product is not None and "flops_per_token" in about:
            rate = max(report["flops"] for report in product) / about["flops_per_token"]
            print(f"{'  floor':<16}{rate:>10.0f}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, (default, words) in SHAPE.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{words} (default {default})")
    for name, default, words in (
        ("steps", 2, "steps a round"),
        ("rounds", 4, "rounds each"),
        ("threads", usable_cores(), "threads each"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{words} (default {default})")
    parser.add_argument(
        "--systems", nargs="+", choices=(*OURS, *PEERS), metavar="SYSTEM", help="of those above"
    )
    parser.add_argument("--remat", help="training.remat of tfllm's systems")
    parser.add_argument("--peers", metavar="PYTHON", help="run the PyTorch systems too, by this interpreter")
    return parser.parse_args()


if __name__ == "__main__":
    main()
