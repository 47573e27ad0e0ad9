"""Load real checkpoints, and compare what they say with what they should, and with transformers.

    python -m scripts.checks.real_models                                 # ours alone
    python -m scripts.checks.real_models --peers ~/peers/bin/python      # an interpreter with torch and transformers

SmolLM2-135M-Instruct is read from a GGUF file, answers a question, is written as a folder of transformers, and both
libraries answer from that folder. all-MiniLM-L6-v2 is read from safetensors, and both embed 100 sentences. The files
come from the Python registry (`fetch_assets.py`). The exit status is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import pydoc_data.topics
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

import tfllm
from scripts import ROOT
from scripts.fetch_assets import AssetError, path_of
from tfllm.convert.safetensors_files import SafetensorsFiles

QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
CHATS = [
    [{"role": "user", "content": QUESTION}],
    [{"role": "user", "content": "Write one sentence about the sea."}],
    [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Hello Ada!"},
        {"role": "user", "content": "What is my name?"},
    ],
]
NEW_TOKENS, TOLERANCE = 64, 1e-5
_MINILM = ("weights", "config", "vocab", "tokenizer", "tokenizer-config")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, help="a Python that has torch and transformers")
    peers = parser.parse_args().peers
    try:
        with tempfile.TemporaryDirectory() as folder:
            good = [check_smollm2(Path(folder), peers), check_minilm(Path(folder), peers)]
    except AssetError as error:
        print(error, file=sys.stderr)
        return 1
    return 0 if all(good) else 1


def check_smollm2(folder: Path, peers: Path | None) -> bool:
    lm = tfllm.load(path_of("smollm2"), notify=_note)
    answer = lm.generate([QUESTION], chat=True, max_new_tokens=NEW_TOKENS)[0]
    good = _said("SmolLM2 from GGUF answers", repr(answer), answer == ANSWER)
    lm.save(folder / "smollm2", to="huggingface")
    again = tfllm.load(folder / "smollm2", notify=_note)
    ours = again.generate(CHATS, chat=True, max_new_tokens=NEW_TOKENS)
    same = ours == lm.generate(CHATS, chat=True, max_new_tokens=NEW_TOKENS)
    good &= _said("converted to a folder of transformers, it says the same", same, same)
    if peers is None:
        return good
    theirs = _ask(peers, "chat", folder / "smollm2", CHATS)
    prompts = [again.encode_chat(chat) for chat in CHATS] == theirs["prompts"]
    good &= _said("transformers makes the same token ids of the chats", prompts, prompts)
    for mine, other in zip(ours, theirs["answers"], strict=True):
        good &= _said("transformers says the same", repr(other), mine == other)
    return good


def check_minilm(folder: Path, peers: Path | None) -> bool:
    source = folder / "minilm"
    source.mkdir()
    for name in _MINILM:
        path = path_of(f"minilm-{name}")
        shutil.copyfile(path, source / path.name)
    lm, texts = tfllm.load(source, notify=_note), sentences()
    vectors = lm.embed(texts)
    lm.save(folder / "minilm-back", to="huggingface")
    one, other = SafetensorsFiles(source), SafetensorsFiles(folder / "minilm-back")
    left = one.shapes.keys() - other.shapes.keys()
    same = all(np.array_equal(one.read(name), other.read(name)) for name in other.shapes)
    good = _said(f"MiniLM written back, every bit, without {sorted(left)}", same, same)
    if peers is None:
        return good
    for name in ("minilm", "minilm-back"):
        theirs = np.array(_ask(peers, "embed", folder / name, texts)["vectors"])
        largest = float(np.abs(vectors - theirs).max())
        words = f"{name}: largest difference of {len(texts)} embeddings to transformers"
        good &= _said(words, f"{largest:.1e}", largest <= TOLERANCE)
    return good


def sentences(count: int = 100) -> list[str]:
    """English of any length, from Python's own documentation."""
    text = " ".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    found = re.split(r"(?<=[.!?])\s+", re.sub(r"\s+", " ", text))
    return found[:: len(found) // count][:count]


def _ask(peers: Path, what: str, folder: Path, content: Any) -> dict[str, Any]:
    command = [str(peers.expanduser()), "-m", "scripts.checks.real_models_torch", what, str(folder)]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(content), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"transformers failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _said(what: str, value: Any, good: bool) -> bool:
    print(f"{'ok ' if good else 'NO '} {what}: {value}", flush=True)
    return good


def _note(line: str) -> None:
    print(f"    {line}")


if __name__ == "__main__":
    sys.exit(main())
