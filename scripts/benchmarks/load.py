"""Loading a checkpoint, of SmolLM2-135M's shape by default: seconds and peak memory beside transformers.

    python -m scripts.benchmarks.load [--peers ~/peers/bin/python] [--stored bfloat16] [--gguf FILE] [--rounds 5]

Both read the same folder of safetensors, with random weights, into float32, each time in a new process, in
turns. With `--gguf` both also read that file, model and tokenizer: `tfllm.load`, and transformers' `gguf_file=`.
Seconds are those of loading alone, with the libraries imported; memory is what the process had at most, and what
it had before.
`peers` is the interpreter of an environment with PyTorch and transformers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts import ROOT

_OURS = """
import json, resource, sys, time
from tfllm.commands.start import start_tensorflow
start_tensorflow()
from tfllm.convert.checkpoint import load_model, read_checkpoint
import tensorflow as tf
tf.constant(0.0)
before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
model = load_model(read_checkpoint(sys.argv[1]))
seconds = time.perf_counter() - begin
print(json.dumps([seconds, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, model.count_params()]))
"""
_THEIRS = """
import json, resource, sys, time
import torch, transformers
from transformers import AutoModelForCausalLM, LlamaForCausalLM
before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
total = sum(float(p.sum()) for p in model.parameters())  # every page read, as ours are
seconds = time.perf_counter() - begin
print(json.dumps([seconds, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, model.num_parameters()]))
"""

_OURS_GGUF = _OURS.replace(
    "model = load_model(read_checkpoint(sys.argv[1]))",
    "model = tfllm.load(sys.argv[1], notify=lambda line: None).model",
).replace("import tensorflow as tf", "import tensorflow as tf, tfllm.language_model.load")
_THEIRS_GGUF = _THEIRS.replace(
    "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)",
    """import os
folder, name = os.path.split(sys.argv[1])
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)""",
)


def main() -> None:
    """Print a line a system."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", metavar="PYTHON", help="run transformers too, by this interpreter")
    parser.add_argument(
        "--stored", default="bfloat16", choices=("float32", "bfloat16"), help="type in the file"
    )
    parser.add_argument("--size", default="smollm2-135m", help="a named size of the decoder")
    parser.add_argument("--gguf", metavar="FILE", help="a GGUF file to load as well")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "checkpoint"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "scripts.benchmarks.load",
                "--write",
                str(folder),
                options.size,
                options.stored,
            ],
            check=True,
            env=_environment(),
        )
        systems = {"tfllm": (sys.executable, _OURS, str(folder))}
        if options.peers:
            systems["transformers"] = (options.peers, _THEIRS, str(folder))
        if options.gguf:
            file = str(Path(options.gguf).expanduser().resolve())
            systems["tfllm, GGUF"] = (sys.executable, _OURS_GGUF, file)
            if options.peers:
                systems["transformers, GGUF"] = (options.peers, _THEIRS_GGUF, file)
        results: dict[str, list[list[float]]] = {name: [] for name in systems}
        for _ in range(options.rounds):
            for name, (python, program, source) in systems.items():
                results[name].append(_run(python, program, source))
    print(f"{results['tfllm'][0][3]:,.0f} parameters, stored as {options.stored}, loaded as float32")
    print(f"{'':<20}{'seconds':>9}{'min':>8}{'max':>8}{'before GB':>11}{'peak GB':>9}{'added GB':>10}")
    for name, rows in results.items():
        seconds = [row[0] for row in rows]
        before, peak = (statistics.median(row[i] for row in rows) / 1e6 for i in (1, 2))
        print(
            f"{name:<20}{statistics.median(seconds):>9.2f}{min(seconds):>8.2f}{max(seconds):>8.2f}"
            f"{before:>11.2f}{peak:>9.2f}{peak - before:>10.2f}"
        )


def _run(python: str, program: str, source: str) -> list[float]:
    command = [os.path.expanduser(python), "-c", program, source]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=_environment(), cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}


def _write(folder: str, size: str, stored: str) -> None:
    """A named size with random weights."""
    from tfllm.config.decoder import DECODER_SIZES
    from tfllm.convert.huggingface import save_model
    from tfllm.models.decoder import Decoder

    arguments = {"max_seq_len": 2048, **DECODER_SIZES[size], "vocab_size": 49152}
    model = Decoder(**arguments)
    model.build()
    save_model(folder, model, arguments, dtype=stored)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        _write(*sys.argv[2:])
    else:
        main()
