"""Fine-tuning on short, uneven texts: packed rows beside transformers' `Trainer` with dynamic padding.

    python -m scripts.benchmarks.packing --text reviews.txt --peers ~/peers/bin/python

What counts are useful tokens a second: targets that are text, padding left out. Both train a GPT-2 of 13.9M
parameters with one tokenizer on the same texts, float32, AdamW, gradients clipped to norm 1. tfllm packs rows
of 256. The Trainer pads each batch to its longest text, and is tried with every batch size, with random
batches and with texts grouped by length, and compiled with dynamic shapes under the better grouping; then its
best eager and its best compiled setting take turns with tfllm. A round is all the texts once.

`text` is a file with a text on each line, such as 10,605 sentences of film reviews (MIT licence):

    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    tar -xzf vaderSentiment-3.3.2.tar.gz
    tar -xzf vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz
    cut -f3 hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt | tr -d '\\r' > reviews.txt

`peers` is the interpreter of an environment with PyTorch and transformers:

    python -m venv ~/peers && ~/peers/bin/pip install torch transformers accelerate
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path

from scripts.benchmarks.worker import Report, Worker, in_turns, usable_cores

MODEL = {"layers": 6, "width": 384, "heads": 6, "seq_len": 256}
OURS = "tfllm, packed"
SAMPLING = ("random", "group_by_length")


def main() -> None:
    arguments = _parse()
    with tempfile.TemporaryDirectory() as folder:
        settings = {**MODEL, **_prepare(arguments, Path(folder)), "folder": folder}
        workers = {OURS: _tfllm(arguments, settings)}
        if arguments.peers is not None:
            workers.update(_best_peers(arguments, settings))
        rounds = in_turns(workers, arguments.rounds)
        for worker in workers.values():
            worker.close()
    _print_title(next(iter(workers.values())).report["parameters"])
    medians = {name: statistics.median(map(_rate, reports)) for name, reports in rounds.items()}
    base = max((median for name, median in medians.items() if name != OURS), default=None)
    for name, reports in rounds.items():
        _print(name, workers[name].report, reports, base)
    print("ratio: over the best peer; start s: until it is ready, with compilation")


def _prepare(arguments: argparse.Namespace, folder: Path) -> Report:
    """Writes what both read: a sample of the texts, the tokenizer of all texts, and the sample's ids."""
    from tfllm.tokenizers import ByteBPETokenizer

    lines = arguments.text.read_text(encoding="utf-8").splitlines()
    texts = [line for line in lines if line and not line.isspace()]
    tokenizer = ByteBPETokenizer.train(texts, vocab_size=arguments.vocab)
    tokenizer.save(folder / "tokenizer")
    sample = random.Random(0).sample(texts, min(arguments.num_texts, len(texts)))
    (folder / "texts.txt").write_text("\n".join(sample), encoding="utf-8")
    ids = [[tokenizer.bos_id, *ids.tolist(), tokenizer.eos_id] for ids in tokenizer.encode_batch(sample)]
    chunks = [chunk for text in ids for chunk in _chunks(text, MODEL["seq_len"])]
    (folder / "token_ids.json").write_text(json.dumps(chunks))
    targets = sum(len(chunk) - 1 for chunk in chunks)
    print(f"{len(sample)} texts, {targets} useful tokens; on average {targets / len(sample):.1f} a text")
    return {"vocab": tokenizer.vocab_size, "pad_token": tokenizer.pad_token}


def _chunks(ids: list[int], length: int) -> list[list[int]]:
    """Cuts a text into parts of `length`, each beginning with the last one's end: every id is a target once."""
    return [ids[start : start + length] for start in range(0, len(ids) - 1, length - 1)]


def _tfllm(arguments: argparse.Namespace, settings: Report) -> Worker:
    module = "scripts.benchmarks.packing_tensorflow"
    return Worker(sys.executable, module, {**settings, "batch": arguments.batch}, threads=arguments.threads)


def _best_peers(arguments: argparse.Namespace, settings: Report) -> dict[str, Worker]:
    """Tries every setting for a round, and starts the best two anew."""
    _print_title(None)
    rates: dict[tuple[bool, str, int], float] = {}

    def best(compiled: bool) -> tuple[bool, str, int]:
        return max((setting for setting in rates if setting[0] == compiled), key=lambda key: rates[key])

    for sampling in SAMPLING:
        for batch in arguments.batch_sizes:
            rates[False, sampling, batch] = _try(arguments, settings, (False, sampling, batch))
    sampling = best(False)[1]
    for batch in arguments.batch_sizes:
        rates[True, sampling, batch] = _try(arguments, settings, (True, sampling, batch))
    return {_name(best(c)): _trainer(arguments, settings, best(c)) for c in (True, False)}


def _try(arguments: argparse.Namespace, settings: Report, setting: tuple[bool, str, int]) -> float:
    worker = _trainer(arguments, settings, setting)
    report = worker.measure()
    worker.close()
    _print(_name(setting), worker.report, [report], None)
    return _rate(report)


def _trainer(arguments: argparse.Namespace, settings: Report, setting: tuple[bool, str, int]) -> Worker:
    compiled, sampling, batch = setting
    chosen = {**settings, "compiled": compiled, "sampling": sampling, "batch": batch}
    return Worker(arguments.peers, "scripts.benchmarks.packing_torch", chosen, threads=arguments.threads)


def _name(setting: tuple[bool, str, int]) -> str:
    compiled, sampling, batch = setting
    return f"Trainer{', compiled' if compiled else ''}, {sampling}, B {batch}"


def _rate(report: Report) -> float:
    return report["useful"] / report["seconds"]


def _print_title(parameters: int | None) -> None:
    words = "one round of each setting" if parameters is None else f"in turns; {parameters:,} parameters"
    titles = ("useful/s", "min", "max", "padding", "ratio", "peak GB", "start s", "loss: first", "last")
    print(f"\n{words}")
    print(f"{'':<44}" + "".join(f"{title:>{max(9, len(title) + 2)}}" for title in titles))


def _print(name: str, ready: Report, reports: list[Report], base: float | None) -> None:
    rates = [_rate(report) for report in reports]
    padding = 1 - sum(r["text"] for r in reports) / sum(r["positions"] for r in reports)
    ratio = "" if base is None else f"{statistics.median(rates) / base:.2f}"
    print(
        f"{name:<44}{statistics.median(rates):>10.0f}{min(rates):>9.0f}{max(rates):>9.0f}{padding:>9.1%}"
        f"{ratio:>9}{reports[-1]['peak_gb']:>9.2f}{ready['start_seconds']:>9.1f}"
        f"{ready['first_loss']:>13.3f}{reports[-1]['loss']:>9.3f}",
        flush=True,
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, required=True, help="a file with a text on each line")
    parser.add_argument("--peers", metavar="PYTHON", help="run transformers too, by this interpreter")
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[8, 16, 32, 64], help="tried for the Trainer"
    )
    for name, default, words in (
        ("vocab", 8192, "tokens of the tokenizer"),
        ("num-texts", 2048, "texts to train on, drawn from the file"),
        ("batch", 8, "rows a step of tfllm"),
        ("rounds", 3, "rounds each"),
        ("threads", usable_cores(), "threads each"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{words} (default {default})")
    return parser.parse_args()


if __name__ == "__main__":
    main()
