"""Print how far a training of every task moves when only the way it is spread changes: the exactness table of tasks.

    python -m scripts.checks.tasks [--tasks seq2seq span_qa ...] [--steps 20]

Each task trains a tiny model on made-up text through `tfllm train`, dropout on, weights of records uneven where it
reads some: on one device; on two; with the batch in four parts; on two with two parts each; and ended in the middle and
gone on with. It prints the largest difference of a step's loss from the plain run's, in nats, and the largest
difference of a weight at the end. The last column is the difference between the loss of the plain run's held-out text
packed and one text to a row; of tasks whose rows are running text or draw what they hide there is none.

Of span_qa the bias of the logits is left out: all tokens of a text share it, so no loss depends on it, and AdamW makes
whole steps of what rounding leaves of its gradient.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfllm.commands.main import main as tfllm
from tfllm.training.checkpoint_folder import checkpoint_paths
from tfllm.training.metrics_log import read_metrics

WORDS = [
    "the",
    "a",
    "red",
    "green",
    "small",
    "old",
    "cat",
    "dog",
    "bird",
    "house",
    "sees",
    "likes",
    "finds",
    "near",
    "under",
    "big",
]
SIZES = {"hidden_dim": 32, "num_heads": 2, "dropout": 0.1}
DECODER = {"type": "decoder", "num_layers": 1, **SIZES}
ENCODER = {"type": "encoder", "num_layers": 1, **SIZES}
BOTH = {"type": "encoder_decoder", "num_encoder_layers": 1, "num_decoder_layers": 1, **SIZES}
CHAT = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token if m.role == 'assistant' else '' }} {% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
PAIRS = {"anchor": "text", "positive": "target"}
TASKS: dict[str, dict[str, Any]] = {
    "causal_lm": {"model": DECODER},
    "masked_lm": {"model": ENCODER},
    "masked_lm, next_sentence": {"task": {"type": "masked_lm", "next_sentence": True}, "model": ENCODER},
    "span_corruption": {"model": BOTH},
    "contrastive": {"model": ENCODER, "columns": PAIRS},
    "classification": {"model": ENCODER},
    "classification, decoder": {
        "task": {"type": "classification", "template": "{text} ="},
        "model": DECODER,
    },
    "classification, multi_label": {
        "task": {"type": "classification", "multi_label": True},
        "model": ENCODER,
        "columns": {"text": "text", "label": "labels"},
    },
    "regression": {"model": ENCODER, "columns": {"text": "text", "label": "number"}},
    "token_classification": {"model": ENCODER, "columns": {"tokens": "tokens", "tags": "tags"}},
    "relation_extraction": {"model": ENCODER},
    "span_qa": {"model": ENCODER},
    "seq2seq, encoder-decoder": {"model": BOTH},
    "seq2seq, decoder": {"task": {"type": "seq2seq", "template": "{source} ="}, "model": DECODER},
    "chat": {"task": {"type": "chat", "template_file": "chat.jinja"}, "model": DECODER},
    "preference": {
        "task": {"type": "preference", "loss": "simpo", "template_file": "chat.jinja"},
        "model": DECODER,
    },
    "preference, orpo": {
        "task": {"type": "preference", "loss": "orpo", "template_file": "chat.jinja"},
        "model": DECODER,
    },
}
_TWO = ("distribution.type=mirrored", "distribution.num_devices=2")
LAYOUTS = {
    "2 devices": _TWO,
    "4 microbatches": ("training.microbatch_size=2",),
    "2 x 2": (*_TWO, "training.microbatch_size=2"),
}
NOT_PACKED_APART = ("causal_lm", "masked_lm", "span_corruption")
WITHOUT_EFFECT = {"span_qa": "/classifier/bias"}  # variables that no loss depends on
LOSS_TOLERANCE, WEIGHT_TOLERANCE, PACKED_TOLERANCE = 1e-4, 1e-4, 1e-5


def main() -> int:
    """Prints the table, and gives 1 where a number exceeds what rounding may leave."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS), metavar="TASK")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    begin = time.perf_counter()
    good = True
    columns = [*LAYOUTS, "gone on with"]
    print(
        f"{'loss, weights':<28}" + "".join(f"{name:>20}" for name in columns) + f"{'packed':>12}", flush=True
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _write_text(folder)
        for name in arguments.tasks:
            told = [f"{name:<28}"]
            plain = _run(folder, name, "plain", arguments.steps)
            for layout in columns:
                differences = _differences(plain, _run(folder, name, layout, arguments.steps))
                good &= differences[0] <= LOSS_TOLERANCE and differences[1] <= WEIGHT_TOLERANCE
                told.append(f"{differences[0]:>11.1e} {differences[1]:.1e}")
            packed = None if name.startswith(NOT_PACKED_APART) else _packed(plain)
            good &= packed is None or packed <= PACKED_TOLERANCE
            told.append(f"{'-' if packed is None else f'{packed:.1e}':>12}")
            print("".join(told), flush=True)
    print(f"{'EQUAL' if good else 'NOT EQUAL'}; {time.perf_counter() - begin:.0f} s")
    return 0 if good else 1


def _config(folder: Path, name: str) -> dict[str, Any]:
    kind = name.partition(",")[0]
    section = TASKS[name]
    columns = section.get("columns")
    rows: dict[str, Any] = {"type": "jsonl", "path": str(folder / "rows.jsonl")}
    if columns:
        rows["columns"] = columns
    if kind in ("causal_lm", "masked_lm", "span_corruption"):
        rows = {"type": "text_files", "path": str(folder / "text.txt"), "split_on": "\n\n"}
    return {
        "name": "exactness",
        "task": {
            **section.get("task", {"type": kind}),
            **({"template_file": str(folder / "chat.jinja")} if kind in ("chat", "preference") else {}),
        },
        "tokenizer": {"type": "byte_bpe", "vocab_size": 400},
        "model": section["model"],
        "data": {"train": rows, "validation_fraction": 0.2, "seq_len": 48, "num_workers": 1},
        "optimizer": {"type": "adamw", "learning_rate": 1e-3, "clip_norm": 0.3, "schedule": "constant"},
        "training": {"global_batch_size": 8, "log_every": 1, "steps_per_call": 5, "jit_compile": False},
        "generation": {"max_new_tokens": 4},
        "evaluation": {"max_examples": 4} if kind == "seq2seq" else {},
    }


def _run(folder: Path, name: str, layout: str, steps: int) -> Path:
    """Trains, and gives the run."""
    config, run = folder / "config.yaml", folder / f"{name} {layout}".replace(" ", "_").replace(",", "")
    config.write_text(json.dumps(_config(folder, name)))
    command = ["train", str(config), "--run-dir", str(run), *LAYOUTS.get(layout, ())]
    if layout == "gone on with":
        _tfllm([*command, f"training.steps={steps // 2}"])
    _tfllm([*command, f"training.steps={steps}"])
    return run


def _tfllm(command: list[str]) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = tfllm(command)
    if status:
        raise SystemExit(f"{' '.join(command)}: status {status}\n{said.getvalue()}")
    return said.getvalue()


def _differences(one: Path, other: Path) -> tuple[float, float]:
    losses = [
        np.array(
            [entry["loss"] for entry in read_metrics(run / "metrics.jsonl") if entry["split"] == "train"]
        )
        for run in (one, other)
    ]
    weights = [_weights(run) for run in (one, other)]
    moved = max(float(np.abs(weights[0][key] - weights[1][key]).max()) for key in weights[0])
    return float(np.abs(losses[0] - losses[1]).max()), moved


def _weights(run: Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(checkpoint_paths(run / "checkpoints")[-1] / "variables"))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("model/")]
    left_out = tuple(end for task, end in WITHOUT_EFFECT.items() if run.name.startswith(task))
    return {name: reader.get_tensor(name) for name in names if not name.endswith(left_out)}


def _packed(run: Path) -> float:
    """How much the loss of held-out text differs between texts packed and alone."""
    losses = [
        json.loads(_tfllm(["evaluate", str(run), f"data.packing={packing}"]).splitlines()[-1])["loss"]
        for packing in ("true", "false")
    ]
    return abs(losses[0] - losses[1])


def _write_text(folder: Path) -> None:
    """Sentences, and what each task says of them."""
    draw = random.Random(0)
    rows = []
    for number in range(160):
        words = [draw.choice(WORDS) for _ in range(3 + number % 7)]
        text, place = " ".join(words), draw.randrange(len(words))
        start = len(" ".join([*words[:place], ""]))
        end = start + len(words[place])
        rows.append(
            {
                "text": text,
                "tokens": words,
                "tags": ["B-X" if word in WORDS[6:9] else "O" for word in words],
                "label": WORDS[WORDS.index(words[0]) % 3],
                "labels": sorted({WORDS[WORDS.index(word) % 3] for word in words[: number % 3]}),
                "number": len(text) / 10,
                "head": [0, len(words[0])],
                "tail": [start, end] if place else [len(text) - len(words[-1]), len(text)],
                "question": f"which is {place}",
                "context": text,
                "answers": [{"text": words[place], "answer_start": start}],
                "messages": [
                    {"role": ("user", "assistant")[place % 2], "content": word}
                    for place, word in enumerate([*words, "end"][: len(words) // 2 * 2 + 2])
                ],
                "prompt": words[0],
                "chosen": " ".join(words[1:]),
                "rejected": " ".join(reversed(words)),
                "source": text,
                "target": " ".join(reversed(words)),
                "weight": 0.25 + number % 4,
            }
        )
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "chat.jinja").write_text(CHAT)
    texts = [str(row["text"]) for row in rows]
    documents = [". ".join(texts[i : i + 4]) + "." for i in range(0, len(texts), 4)]
    (folder / "text.txt").write_text("\n\n".join(documents))


if __name__ == "__main__":
    sys.exit(main())
