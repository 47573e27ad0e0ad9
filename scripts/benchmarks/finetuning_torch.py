"""transformers' `Trainer` with dynamic padding, for `finetuning.py`, which starts this module itself."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

from scripts.benchmarks.trainer_torch import Clock, training_arguments
from scripts.benchmarks.worker import Report, serve


def main() -> None:
    serve(_build, sys.argv[1:])


def _build(settings: Report):
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    with (Path(settings["folder"]) / "texts.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["label"] for row in rows})
    tokenizer = transformers.AutoTokenizer.from_pretrained(settings["source"])
    ids = tokenizer([row["text"] for row in rows], truncation=True, max_length=settings["seq_len"])[
        "input_ids"
    ]
    labels = [names.index(row["label"]) for row in rows]
    texts = [{"input_ids": each, "labels": label} for each, label in zip(ids, labels, strict=True)]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        settings["source"],
        num_labels=len(names),
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.0,  # which tfllm has not either
    )
    collator = _CountingCollator(tokenizer)
    trainer = transformers.Trainer(
        model=model,
        args=training_arguments(settings, learning_rate=5e-5),
        train_dataset=texts,
        data_collator=collator,
        processing_class=tokenizer,  # names the feature whose length is a text's
    )
    trainer.remove_callback(transformers.PrinterCallback)
    clock = Clock()
    trainer.add_callback(clock)

    def train(steps: int) -> Report:
        """Trains on all texts once, or for some steps."""
        trainer.args.max_steps = steps
        collator.useful = collator.positions = 0
        loss = trainer.train().training_loss
        return {
            "loss": loss,
            "seconds": clock.seconds,
            "useful": collator.useful,
            "positions": collator.positions,
        }

    first_loss = train(1)["loss"]
    train(3)
    return lambda: train(-1), {"first_loss": first_loss, "parameters": model.num_parameters()}


class _CountingCollator(transformers.DataCollatorWithPadding):
    """Counts what it pads."""

    useful = positions = 0

    def __call__(self, features: Any) -> Any:
        batch = super().__call__(features)
        self.positions += batch["input_ids"].numel()
        self.useful += sum(len(each["input_ids"]) for each in features)
        return batch


if __name__ == "__main__":
    main()
