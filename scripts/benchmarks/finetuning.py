"""Tuning a published encoder to tell classes of texts: packed rows beside transformers' `Trainer`.

    python -m scripts.benchmarks.finetuning --text reviews.csv --source FOLDER --peers ~/peers/bin/python

What counts are useful tokens a second: those of texts, special ones among them, padding left out. Both start from
one checkpoint, read the same texts and cut them alike, float32, AdamW, gradients clipped to norm 1, the same dropout.
tfllm packs rows; the Trainer pads each batch to its longest text, with random batches as people have them, and with
texts grouped by length, which is the fair peer; each with the batch size that is fastest of those tried. A round is
all the texts once; they take turns.

`text` is a CSV with columns text and label, `source` a folder of a BERT, such as all-MiniLM-L6-v2. `peers` is the
interpreter of an environment with PyTorch, transformers and accelerate.
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
import sys
import tempfile
from pathlib import Path

from scripts.benchmarks.worker import Report, Worker, in_turns, usable_cores

OURS = "tfllm, packed"
SAMPLING = ("random", "group_by_length")


def main() -> None:
    """Print a line a system."""
    arguments = _parse()
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "folder": folder,
            "source": str(arguments.source.expanduser().resolve()),
            "seq_len": arguments.seq_len,
        }
        _prepare(arguments, Path(folder))
        ours = {**settings, "batch": arguments.batch}
        module = "scripts.benchmarks.finetuning_tensorflow"
        workers = {OURS: Worker(sys.executable, module, ours, threads=arguments.threads)}
        if arguments.peers is not None:
            for sampling in SAMPLING:
                batch = _fastest(arguments, settings, sampling)
                name = f"Trainer, {sampling}, B {batch}"
                workers[name] = _trainer(arguments, settings, sampling, batch)
        rounds = in_turns(workers, arguments.rounds)
        for worker in workers.values():
            worker.close()
    medians = {name: statistics.median(map(_rate, reports)) for name, reports in rounds.items()}
    titles = ("useful/s", "min", "max", "padding", "ratio", "peak GB", "start s", "loss: first", "last")
    print(f"\nin turns; {workers[OURS].report['parameters']:,} parameters")
    print(f"{'':<32}" + "".join(f"{title:>{max(9, len(title) + 2)}}" for title in titles))
    for name, reports in rounds.items():
        rates = [_rate(report) for report in reports]
        padding = 1 - sum(r["useful"] for r in reports) / sum(r["positions"] for r in reports)
        ready = workers[name].report
        print(
            f"{name:<32}{medians[name]:>10.0f}{min(rates):>9.0f}{max(rates):>9.0f}{padding:>9.1%}"
            f"{medians[OURS] / medians[name]:>9.2f}{reports[-1]['peak_gb']:>9.2f}{ready['start_seconds']:>9.1f}"
            f"{ready['first_loss']:>13.3f}{reports[-1]['loss']:>9.3f}"
        )
    print("ratio: tfllm's over this one; start s: until it is ready, with compilation")


def _prepare(arguments: argparse.Namespace, folder: Path) -> None:
    """Writes what both read, a sample of the texts, and a text that tfllm holds out: it trains on all of the sample."""
    with arguments.text.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["text"].strip()]
    sample = random.Random(0).sample(rows, min(arguments.num_texts, len(rows)))
    held_out = [{"text": "Held out.", "label": sample[0]["label"]}]
    for name, written in (("texts.csv", sample), ("held_out.csv", held_out)):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(written)
    print(f"{len(sample)} texts, {len({row['label'] for row in sample})} classes")


def _fastest(arguments: argparse.Namespace, settings: Report, sampling: str) -> int:
    rates = {}
    for batch in arguments.batch_sizes:
        worker = _trainer(arguments, settings, sampling, batch)
        rates[batch] = _rate(worker.measure())
        worker.close()
        print(f"tried Trainer, {sampling}, B {batch}: {rates[batch]:.0f} useful tokens a second", flush=True)
    return max(rates, key=lambda batch: rates[batch])


def _trainer(arguments: argparse.Namespace, settings: Report, sampling: str, batch: int) -> Worker:
    chosen = {**settings, "sampling": sampling, "batch": batch}
    return Worker(arguments.peers, "scripts.benchmarks.finetuning_torch", chosen, threads=arguments.threads)


def _rate(report: Report) -> float:
    return report["useful"] / report["seconds"]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, required=True, help="a CSV with columns text and label")
    parser.add_argument("--source", type=Path, required=True, help="the folder of a BERT")
    parser.add_argument("--peers", metavar="PYTHON", help="run transformers too, by this interpreter")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32], help="tried for the Trainer")
    for name, default, words in (
        ("num-texts", 1024, "texts to train on, drawn from the file"),
        ("seq-len", 128, "tokens of a text, at most, and of a row"),
        ("batch", 8, "rows a step of tfllm"),
        ("rounds", 3, "rounds each"),
        ("threads", usable_cores(), "threads each"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{words} (default {default})")
    return parser.parse_args()


if __name__ == "__main__":
    main()
