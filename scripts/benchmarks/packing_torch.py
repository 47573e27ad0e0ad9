"""transformers' `Trainer` with dynamic padding, for `bench_packing.py`, which starts this file itself."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import torch
import transformers

from scripts.bench_worker import Report, serve


def main() -> None:
    serve(_build, sys.argv[1:])


def _build(settings: Report):
    torch.set_num_threads(settings["threads"])
    transformers.logging.set_verbosity_error()
    folder = Path(settings["folder"])
    texts = [{"input_ids": ids} for ids in json.loads((folder / "token_ids.json").read_text())]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer" / "tokenizer.json"), pad_token=settings["pad_token"]
    )
    collator = _CountingCollator(tokenizer=tokenizer, mlm=False)
    trainer = transformers.Trainer(
        model=_model(settings),
        args=_arguments(settings),
        train_dataset=texts,
        data_collator=collator,
        processing_class=tokenizer,  # names the feature whose length is a text's
    )
    trainer.remove_callback(transformers.PrinterCallback)
    clock = _Clock()
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


class _Clock(transformers.TrainerCallback):
    """The time of the loop alone, without what `train` sets up before it."""

    def on_epoch_begin(self, *arguments: Any, **_: Any) -> None:
        self._begin = time.perf_counter()

    def on_epoch_end(self, *arguments: Any, **_: Any) -> None:
        self.seconds = time.perf_counter() - self._begin


def _model(settings: Report) -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=settings["vocab"],
        n_positions=settings["seq_len"],
        n_embd=settings["width"],
        n_layer=settings["layers"],
        n_head=settings["heads"],
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model = transformers.GPT2LMHeadModel(config)
    if settings["compiled"]:
        model.compile(dynamic=True)  # torch_compile=True compiles one length first, and then once more
    return model


def _arguments(settings: Report) -> transformers.TrainingArguments:
    return transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(dir=settings["folder"]),
        per_device_train_batch_size=settings["batch"],
        train_sampling_strategy=settings["sampling"],
        num_train_epochs=1,
        learning_rate=3e-4,
        lr_scheduler_type="constant",
        weight_decay=0.1,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        use_cpu=True,
        dataloader_pin_memory=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


if __name__ == "__main__":
    main()
