"""What the benchmarks of transformers' `Trainer` have in common. Needs PyTorch, transformers, and nothing of tfllm."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import transformers

from scripts.benchmarks.worker import Report


class Clock(transformers.TrainerCallback):
    """The time of the loop alone, without what `train` sets up before it."""

    seconds = 0.0

    def on_epoch_begin(self, *arguments: Any, **_: Any) -> None:
        """Starts."""
        self._begin = time.perf_counter()

    def on_epoch_end(self, *arguments: Any, **_: Any) -> None:
        """Stops."""
        self.seconds = time.perf_counter() - self._begin


def training_arguments(settings: Report, *, learning_rate: float) -> transformers.TrainingArguments:
    """One pass of AdamW over the texts on the CPU, which writes nothing.

    Args:
        settings: `folder`, `batch` and `sampling`.
        learning_rate: At every step.
    """
    return transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(dir=settings["folder"]),
        per_device_train_batch_size=settings["batch"],
        train_sampling_strategy=settings["sampling"],
        num_train_epochs=1,
        learning_rate=learning_rate,
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
