"""transformers' `Trainer` with dynamic padding, for `packing.py`, which starts this module itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import transformers

from scripts.benchmarks import gpt2_torch
from scripts.benchmarks.trainer_torch import Clock, training_arguments
from scripts.benchmarks.worker import Report, serve


def main() -> None:
    serve(_build, sys.argv[1:])


def _build(settings: Report):
    gpt2_torch.start(settings)
    folder = Path(settings["folder"])
    texts = [{"input_ids": ids} for ids in json.loads((folder / "token_ids.json").read_text())]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer" / "tokenizer.json"), pad_token=settings["pad_token"]
    )
    collator = _CountingCollator(tokenizer=tokenizer, mlm=False)
    trainer = transformers.Trainer(
        model=_model(settings),
        args=training_arguments(settings, learning_rate=3e-4),
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
        collator.useful = collator.positions = collator.text = 0
        loss = trainer.train().training_loss
        return {
            # The Trainer divides by all labels, each text's first included, which nothing predicts.
            "loss": loss * collator.text / collator.useful,
            "seconds": clock.seconds,
            "useful": collator.useful,
            "text": collator.text,
            "positions": collator.positions,
        }

    first_loss = train(1)["loss"]
    train(4)
    return lambda: train(-1), {"first_loss": first_loss, "parameters": trainer.model.num_parameters()}


class _CountingCollator(transformers.DataCollatorForLanguageModeling):
    """Counts what it pads: a text of n ids has n - 1 targets."""

    useful = positions = text = 0

    def torch_call(self, examples: Any) -> Any:
        batch = super().torch_call(examples)
        self.positions += batch["input_ids"].numel()
        self.text += int((batch["labels"] != -100).sum())
        self.useful += int((batch["labels"][:, 1:] != -100).sum())
        return batch


def _model(settings: Report) -> Any:
    model = gpt2_torch.make_model(settings)
    if settings["compiled"]:
        model.compile(dynamic=True)  # torch_compile=True compiles one length first, and then once more
    return model


if __name__ == "__main__":
    main()
