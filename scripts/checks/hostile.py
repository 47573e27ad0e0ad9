"""What tfllm makes of spoiled files: one of its own messages each, in bounded time and memory.

    python -m scripts.checks.hostile [--only WORDS]

Each file is loaded, inspected, and taken for the model of a run, each in a process of its own, which has imported
TensorFlow before. Seconds and memory are those of the three together, and what is added to that.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.checks import hostile_folders, hostile_gguf
from scripts.checks.small_llama import write_folder

CASES = {**hostile_folders.CASES, **hostile_gguf.CASES}
SECONDS, MEGABYTES = 20, 1000


def main() -> int:
    """Print a line a case; returns 1 if one is not refused as it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="cases whose name holds this")
    options = parser.parse_args()
    from tfllm.commands.start import start_tensorflow

    start_tensorflow()
    import tfllm.language_model.load  # noqa: F401  what all of them need

    bad = 0
    print(f"{'':<58}{'seconds':>8}{'MB':>7}  result")
    for name, write in {"a whole checkpoint": write_folder, **CASES}.items():
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = write(Path(folder) / "checkpoint")
            seconds, megabytes, said = _measured(path)
        wrong = said.startswith("!") or seconds > SECONDS or megabytes > MEGABYTES
        bad += wrong
        print(f"{name:<58}{seconds:>8.2f}{megabytes:>7.0f}  {said.replace(folder, '…')}", flush=True)
    print(f"{bad} of them are not as they should be" if bad else "all are as they should be")
    return 1 if bad else 0


def _measured(path: Path) -> tuple[float, float, str]:
    """Seconds, megabytes, and what was said, with `!` before what should not be."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        signal.alarm(10 * SECONDS)
        before, begin = _peak(), time.perf_counter()
        try:
            said = _tried(path)
        except BaseException as error:
            said = f"!{type(error).__name__}: {str(error)[:200]}"
        result = json.dumps([time.perf_counter() - begin, _peak() - before, said])
        os.write(write, result.encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    return tuple(json.loads(data)) if data else (0.0, 0.0, f"!died of status {status}")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _tried(path: Path) -> str:
    import tfllm
    from tfllm.commands.main import USER_ERRORS
    from tfllm.commands.main import main as command
    from tfllm.config import config_from_mapping
    from tfllm.experiment.model_source import expand

    said = "loaded"
    try:
        tfllm.load(path, jit_compile=False, notify=lambda line: None)
    except USER_ERRORS as error:
        said = f"{type(error).__name__}: {_one_line(error)}"
    section: dict[str, Any] = {"type": "pretrained", "source": str(path)}
    with contextlib.suppress(*USER_ERRORS):
        mapping = {"name": "x", "model": section, "tokenizer": {"type": "pretrained"}}
        expand(config_from_mapping(mapping, for_training=False))
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        command(["inspect", str(path)])
    return said if len(output.getvalue()) < 100_000 else f"!{len(output.getvalue())} characters were printed"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 2000 else f"!{len(text)} characters: {text[:100]}"


if __name__ == "__main__":
    sys.exit(main())
