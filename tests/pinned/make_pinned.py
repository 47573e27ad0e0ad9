"""Writes down what must stay the same when the code is redrawn: `pinned.json` and the run that `begun_run/` holds.

    python -m tests.pinned.make_pinned

Made once, from the code before it was redrawn; made anew only where a change of format is meant.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfllm.data.prepare import prepare_rows
from tfllm.data.sources import TextFilesSource
from tfllm.data.split import Split
from tfllm.layers.dropout import Dropout
from tfllm.models.decoder import Decoder
from tfllm.models.encoder import Encoder
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.tokenizers import ByteTokenizer, Tokenizer, read_tokenizer

HERE = Path(__file__).parent
GOLDENS = HERE.parent / "tokenizers" / "goldens"
TEXT = HERE / "text.txt"
RUN, STEPS, BEGUN = HERE / "begun_run", 12, 6
SIZES = {"vocab_size": 19, "hidden_dim": 16, "num_heads": 4, "max_seq_len": 32, "dropout": 0.25}
MODELS: dict[str, Any] = {
    "decoder": lambda: Decoder(num_layers=2, num_kv_heads=2, qk_norm=True, branch_norms=True, **SIZES),
    "decoder learned": lambda: Decoder(
        num_layers=1, positions="learned", norm="layer_norm", use_bias=True, tie_embeddings=False, **SIZES
    ),
    "encoder": lambda: Encoder(
        num_layers=2, pooler="tanh", head="masked_lm", next_sentence_head=True, **SIZES
    ),
    "encoder pre": lambda: Encoder(
        num_layers=1, norm_placement="pre", head="token_classification", num_classes=3, **SIZES
    ),
    "encoder-decoder": lambda: EncoderDecoder(num_encoder_layers=1, num_decoder_layers=2, **SIZES),
    "encoder-decoder relative": lambda: EncoderDecoder(
        num_encoder_layers=2,
        num_decoder_layers=1,
        positions="relative",
        norm="rms_norm",
        use_bias=False,
        activation="geglu",
        tie_embeddings=False,
        source_vocab_size=17,
        embedding_norm=True,
        **SIZES,
    ),
}


def features(model: Any) -> dict[str, tf.Tensor]:
    """Two rows that every kind of model reads."""
    ids, seeds = tf.constant([[1, 2, 3, 4], [5, 6, 7, 8]]), tf.constant([3, 4])
    if isinstance(model, EncoderDecoder):
        return {"encoder_token_ids": ids, "decoder_token_ids": ids + 1, "row_seeds": seeds}
    return {"token_ids": ids, "row_seeds": seeds}


def of_model(name: str) -> dict[str, Any]:
    """Variables, dropout layers, new weights and what is computed with dropout."""
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    model.build()
    hidden = model(features(model), training=True)["hidden_states"].numpy()
    dropouts = [layer.path for layer in model._flatten_layers() if isinstance(layer, Dropout)]
    dropouts = [path for path in dropouts if path is not None]  # what no call has reached
    return {
        "variables": [variable.path for variable in model.variables],
        "dropouts": sorted(dropouts),
        # Not a digest: another processor may draw another last digit.
        "weights": [[_short(v.numpy().ravel()[0]), _short(np.abs(v.numpy()).sum())] for v in model.variables],
        "dropped": [_short(x) for x in hidden[1, 2]],
    }


def _short(x: Any) -> float:
    return float(f"{float(x):.5g}")


def tokenizers(folder: Path) -> dict[str, Tokenizer]:
    """One of each kind."""
    made: dict[str, Tokenizer] = {"byte": ByteTokenizer()}
    for name in ("bert", "gemma", "gpt2", "llama", "marian", "t5"):
        made[name] = read_tokenizer(GOLDENS / name)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(GOLDENS / "marian" / "source.spm", folder / "spiece.model")
    made["sentencepiece"] = read_tokenizer(folder)
    return made


def of_rows(folder: Path) -> dict[str, str]:
    """The identities of rows that are made of the text."""
    made = {}
    for name, settings in {
        "packed": {"packing": True},
        "unpacked": {"packing": False},
        "held out": {
            "packing": True,
            "split": Split("validation", 5, validation=0.2),
            "require_full_row": False,
        },
    }.items():
        source = TextFilesSource(path=str(TEXT), split_on="\n\n")
        rows = prepare_rows(
            source=source, tokenizer=ByteTokenizer(), seq_len=32, cache_dir=str(folder), **settings
        )
        made[name] = {"key": rows.key, "identity": rows.identity, "content": rows.content}
    return made


def config_of_run() -> dict[str, Any]:
    """A training with everything that has a state or a path: dropout, averaged weights, a schedule, clipping."""
    return {
        "name": "begun",
        "tokenizer": {"type": "byte"},
        "model": {"num_layers": 2, "hidden_dim": 16, "num_heads": 4, "num_kv_heads": 2, "dropout": 0.2},
        "data": {"train": {"type": "text_files", "path": "text.txt", "split_on": "\n\n"}, "seq_len": 32},
        "optimizer": {
            "type": "adamw",
            "learning_rate": 3e-3,
            "ema_decay": 0.9,
            "clip_norm": 1.0,
            "schedule": {"type": "cosine", "warmup_steps": 3},
        },
        "training": {
            "steps": STEPS,
            "global_batch_size": 4,
            "microbatch_size": 2,
            "log_every": 1,
            "evaluate_every": BEGUN,
            "checkpoint_every": BEGUN,
            "jit_compile": False,
        },
        "generation": {"max_new_tokens": 8},
    }


def lines_of(run: Path) -> list[dict[str, Any]]:
    """What a run has logged, but for times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: line[key] for key in ("step", "split", "loss", "grad_norm", "learning_rate") if key in line}
        for line in lines
    ]


def main() -> None:
    """Writes all of it."""
    import os
    import tempfile

    from tfllm.config import config_from_mapping
    from tfllm.experiment.run import train

    TEXT.write_text("\n\n".join(f"The {i}th door opens when the {i + 1}th one is shut." for i in range(60)))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(shutil.copytree(HERE, Path(folder) / "begun"))  # which the checkpoint notes
        os.environ["TFLLM_CACHE"] = folder
        pinned: dict[str, Any] = {"models": {name: of_model(name) for name in MODELS}}
        made = tokenizers(Path(folder) / "sentencepiece")
        pinned["fingerprints"] = {name: tokenizer.fingerprint for name, tokenizer in made.items()}
        pinned["rows"] = of_rows(Path(folder) / "rows")
        shutil.rmtree(RUN, ignore_errors=True)
        train(config_from_mapping(config_of_run()), RUN)
        os.chdir(HERE)
        pinned["run"] = lines_of(RUN)
    _stop_at(BEGUN)
    (HERE / "pinned.json").write_text(json.dumps(pinned, indent=1) + "\n")


def _stop_at(step: int) -> None:
    """Leaves of the run what there was after that step."""
    for path in (RUN / "checkpoints").iterdir():
        if path.name != f"step_{step:08d}":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in ("tensorboard", "samples", "export"):
        shutil.rmtree(RUN / name, ignore_errors=True)
    manifest = RUN / "checkpoints" / f"step_{step:08d}" / "manifest.json"
    noted = json.loads(manifest.read_text())
    noted["about"]["folder"] = {"whole": "/begun", "from_run": "../begun"}  # of no machine
    del noted["sha256"]
    digest = hashlib.sha256(json.dumps(noted, sort_keys=True).encode()).hexdigest()
    manifest.write_text(json.dumps({"sha256": digest, **noted}, indent=1))
    log = RUN / "metrics.jsonl"
    kept = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= step]
    log.write_text("\n".join(kept) + "\n")


if __name__ == "__main__":
    main()
