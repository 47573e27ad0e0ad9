"""Whole tiny trainings by the command line, each made once for all the keys that it shows."""

import contextlib
import io
import json
import random
import signal
import string
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import yaml

from tfllm.commands.main import main
from tfllm.experiment import run as training_run
from tfllm.layers import blockwise_attention
from tfllm.layers.feed_forward import FeedForward
from tfllm.models.decoder import Decoder
from tfllm.training.checkpoint import checkpoint_paths
from tfllm.training.display import Display
from tfllm.training.metrics_log import read_metrics

WORDS = [f"{a}{b}n" for a in string.ascii_lowercase for b in "aeiou"]


def documents(count=40, seed=0):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=20)) for _ in range(count)]


def mapping(text: Path, **sections):
    """A config whose training takes seconds: bytes, one block of width 8, six steps of four rows of 16."""
    return {
        "name": "small",
        "tokenizer": "byte",
        "model": {"num_layers": 1, "hidden_dim": 8, "num_heads": 2},
        "data": {
            "train": {"type": "text_files", "path": str(text), "split_on": "\n\n"},
            "validation_fraction": 0.2,
            "seq_len": 16,
            "num_workers": 1,
        },
        "optimizer": {"learning_rate": 0.01, "schedule": "constant"},
        "training": {"steps": 6, "global_batch_size": 4, "jit_compile": False},
        "generation": {"max_new_tokens": 4},
        **sections,
    }


class Run:
    """What came of a training: its exit statuses and words, its folder, and what was seen on the way."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.statuses: list[int] = []
        self.words = ""
        self.looks: list[int] = []  # steps at which the loop came back to Python
        self.tokens_projected: set[int] = set()  # tokens whose logits were made at once
        self.compiled = 0  # functions that XLA was asked to compile
        self.fed_forward = 0  # times a feed-forward layer was traced
        self.attention_blocks: set[int] = set()  # keys whose attention scores were made at once

    def lines(self, split):
        return [line for line in read_metrics(self.folder / "metrics.jsonl") if line["split"] == split]

    @property
    def checkpoints(self):
        return [
            int(path.name.removeprefix("step_")) for path in checkpoint_paths(self.folder / "checkpoints")
        ]

    @cached_property
    def weights(self):
        reader = tf.train.load_checkpoint(
            str(checkpoint_paths(self.folder / "checkpoints")[-1] / "variables")
        )
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}

    @cached_property
    def lm(self):
        import tfllm

        return tfllm.load(self.folder, jit_compile=False)

    @cached_property
    def events(self):
        """Tags of TensorBoard's events → steps at which they were written."""
        steps: dict[str, set[int]] = {}
        for path in (self.folder / "tensorboard").glob("events.*"):
            for event in tf.compat.v1.train.summary_iterator(str(path)):
                for value in event.summary.value:
                    steps.setdefault(value.tag, set()).add(event.step)
        return steps


class Runs:
    """Trains by `tfllm train`.

    Args:
        folder: Where configs and runs go.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.text = folder / "text.txt"
        self.text.write_text("\n\n".join(documents()), encoding="utf-8")
        self._made: dict[str, Run] = {}

    def config(self, **sections) -> Path:
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(mapping(self.text, **sections)), encoding="utf-8")
        return path

    def __call__(self, values, *, stop_at=None, patch=None) -> Run:
        """Trains with dotted overrides; the same ones train once.

        Args:
            values: Dotted overrides → values.
            stop_at: A step at which SIGTERM comes; the same command then goes on.
            patch: Called with a `pytest.MonkeyPatch` before the training.
        """
        name = json.dumps([values, stop_at], sort_keys=True, default=str)
        if name not in self._made:
            self._made[name] = self._train(
                Run(self.folder / f"run_{len(self._made)}"), values, stop_at, patch
            )
        return self._made[name]

    def _train(self, run, values, stop_at, patch):
        if stop_at is not None:  # the loop must come back to Python there
            values = {"training.log_every": stop_at, **values}
        overrides = [f"{key}={json.dumps(value)}" for key, value in values.items()]
        command = ["train", str(self.config()), "--run-dir", str(run.folder), *overrides]
        with pytest.MonkeyPatch.context() as monkeypatch:
            _spy(run, monkeypatch, stop_at)
            if patch:
                patch(monkeypatch)
            words = io.StringIO()
            with contextlib.redirect_stdout(words), contextlib.redirect_stderr(words):
                run.statuses.append(main(command))
                if stop_at is not None and run.statuses == [143]:
                    run.statuses.append(main(command))
            run.words = words.getvalue()
        assert "Traceback" not in run.words
        return run


def _spy(run: Run, monkeypatch, stop_at):
    progress, logits, function = Display.progress, Decoder.logits, tf.function

    def noting_progress(self, state):
        run.looks.append(state.step)
        if stop_at is not None and state.step >= stop_at and len(run.statuses) == 0:
            signal.raise_signal(signal.SIGTERM)
        return progress(self, state)

    def noting_logits(self, hidden_states):
        run.tokens_projected.add(int(np.prod([x or 0 for x in hidden_states.shape[:-1]])))
        return logits(self, hidden_states)

    def noting_function(*arguments, **options):
        run.compiled += bool(options.get("jit_compile"))
        return function(*arguments, **options)

    feed, block = FeedForward.call, blockwise_attention._Blocks.__init__

    def noting_feed(self, *arguments):
        run.fed_forward += 1
        return feed(self, *arguments)

    def noting_block(self, mask, size, *rest):
        run.attention_blocks.add(size)
        block(self, mask, size, *rest)

    monkeypatch.setattr(FeedForward, "call", noting_feed)
    monkeypatch.setattr(blockwise_attention._Blocks, "__init__", noting_block)
    monkeypatch.setattr(Display, "progress", noting_progress)
    monkeypatch.setattr(Decoder, "logits", noting_logits)
    monkeypatch.setattr(tf, "function", noting_function)
    # The rate of a product is measured at each start, which takes longer than these trainings.
    monkeypatch.setattr(training_run, "peak_flops", lambda precision: 1e12)
