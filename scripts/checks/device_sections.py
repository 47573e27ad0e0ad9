"""The sections of `device.py` that need TensorFlow; it starts this module itself.

A section returns rows: what was measured, in words, and whether it holds (None where there is nothing to hold).
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from scripts.benchmarks.worker import Report, serve
from scripts.checks.exactness import sentences
from tfllm.commands.start import start_tensorflow
from tfllm.training.metrics_log import read_metrics

STEPS = 20
# Largest relative difference of a loss in 20 steps. Of float32 only rounding remains, which training amplifies;
# TF32 keeps 10 bits of a factor, as float16 does, and bfloat16 7.
LIMITS = {"float32": 1e-4, "tf32": 1e-2, "mixed_float16": 1e-2, "mixed_bfloat16": 5e-2}
# Of each half of a GPU that stands in for two: the models of these sections are small.
_HALF_MEGABYTES = 5000
_PROMPTS = ["The ", "assert x", "", "for each of the"]


def main() -> None:
    serve(_build, sys.argv[1:])


def _build(settings: Report) -> tuple[Callable[[], Report], Report]:
    """Makes a call of what it returns run the next of `settings["sections"]`."""
    bench = Bench(settings)
    names = iter(settings["sections"])

    def measure() -> Report:
        return section_report(bench, next(names))

    return measure, bench.about


def section_report(bench: Bench, name: str) -> Report:
    """Runs a section; what it raises becomes one line."""
    try:
        return {"rows": getattr(bench, name)()}
    except Exception as error:  # whatever it is, the other sections go on
        import traceback

        traceback.print_exc()
        return {"error": one_line(error)}


def one_line(error: BaseException) -> str:
    """The first line of a message, and the error's type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def row(title: str, words: str, good: bool | None = None) -> Report:
    """A row of the table."""
    return {"title": title, "words": words, "good": good}


class Bench:
    """Trainings of one small model, each in a run folder, and what is compared of them.

    A run that is in its folder already, from a process that ended since, is not trained again.

    Args:
        settings: `folder`; `shape`, the sizes of the model that decodes; `jit_compile`; `steps`.

    Attributes:
        about: What there is to compute with.
    """

    def __init__(self, settings: Report):
        start_tensorflow()
        import tensorflow as tf

        self.folder = Path(settings["folder"])
        self.shape, self.jit_compile = settings["shape"], settings["jit_compile"]
        self.steps = settings.get("steps", STEPS)
        self.kind = next(k for k in ("TPU", "GPU", "CPU") if tf.config.list_physical_devices(k))
        physical = tf.config.list_physical_devices(self.kind)
        details = tf.config.experimental.get_device_details(physical[0]) if self.kind == "GPU" else {}
        if self.kind != "TPU" and len(physical) == 1:
            _make_two(physical[0], self.kind)
        self.num_devices = len(tf.config.list_logical_devices(self.kind)) if self.kind != "TPU" else 0
        self.about = {
            "kind": self.kind,
            "name": details.get("device_name", self.kind),
            "physical": len(physical),
            "logical": self.num_devices,
            "tensorflow": tf.__version__,
        }

    def product(self) -> list[Report]:
        """What the device can do; the rate that MFU is a share of."""
        from tfllm.training.throughput import peak_flops

        kinds = ["float32"] if self.kind == "CPU" else ["float32", "mixed_bfloat16"]
        rates = {kind: peak_flops(kind) for kind in kinds}
        words = ", ".join(f"{kind} {rate / 1e12:.3g}" for kind, rate in rates.items())
        return [{**row("peak rate, TFLOP/s (MFU's)", words), "rates": rates}]

    def float32(self) -> list[Report]:
        """The accelerator beside the CPU, with all the digits of float32."""
        rows = [self._beside("float32", self._reference, self._float32, LIMITS["float32"], "the CPU's")]
        if self.kind == "GPU":
            from tfllm.training.peak_memory import peak_memory_bytes

            used = peak_memory_bytes()
            rows.append(row("  memory that it took on the GPU", f"{used / 1e6:.0f} MB", used > 1e6))
        return rows

    def tf32(self) -> list[Report]:
        """float32 as TensorFlow multiplies it where nobody says otherwise."""
        if self.kind != "GPU":
            return [row("float32, factors in TF32", f"not measured: a {self.kind} has none")]
        return [
            self._beside("float32, factors in TF32", self._float32, lambda: self._once("tf32", tf32=True),
                         LIMITS["tf32"], "float32's")
        ]  # fmt: skip

    def mixed_bfloat16(self) -> list[Report]:
        """bfloat16 beside float32."""
        return self._mixed("mixed_bfloat16")

    def mixed_float16(self) -> list[Report]:
        """float16 with its dynamic loss scale beside float32."""
        if self.kind == "TPU":
            return [row("mixed_float16", "not measured: a TPU has no float16")]
        rows = self._mixed("mixed_float16")
        entries = _entries(self.folder / "mixed_float16")
        skipped = sum(entry.get("skipped_steps", 0) for entry in entries)
        rows.append(row("  loss scale", f"{entries[-1]['loss_scale']:g}, {skipped} steps skipped"))
        return rows

    def mirrored(self) -> list[Report]:
        """All accelerators beside one."""
        if self.kind == "TPU":
            return [row("mirrored", "not measured: one device is all cores of the TPU already")]
        title = f"mirrored over {self.num_devices} {self.kind}s"
        if self.about["physical"] < self.num_devices:
            title += f" (parts of {self.about['physical']})"
        words = ["distribution.type=mirrored", f"distribution.num_devices={self.num_devices}"]
        other = lambda: self._once("mirrored", *words)  # noqa: E731
        return [self._beside(title, self._float32, other, LIMITS["float32"], "one device's")]

    def decode(self) -> list[Report]:
        """Generation compiled by XLA and not, at the size that the training is measured at."""
        from scripts.benchmarks.gpt2_tensorflow import make_model
        from tfllm.generation.generate import Generator

        _all_digits(True)
        sizes, new_tokens = self.shape, self.shape["new_tokens"]
        with self._device():
            model = make_model(sizes)
            prompts = np.random.default_rng(0).integers(sizes["vocab"], size=[4, new_tokens]).tolist()
            ids, rates = {}, {}
            for name, jit_compile in (("XLA", True), ("without", False)):
                generator = Generator(model, stop_ids=[-1], pad_id=0, jit_compile=jit_compile)
                settings = {"max_new_tokens": new_tokens, "seed": 1}
                generator(prompts, **settings)  # compiled now
                start = time.perf_counter()
                ids[name] = generator(prompts, **settings)
                rates[name] = len(prompts) * new_tokens / (time.perf_counter() - start)
        words = ", ".join(f"{name} {rate:,.0f} tokens/s" for name, rate in rates.items())
        equal = _first_difference(ids["XLA"], ids["without"])
        title = f"decode, {model.count_params() / 1e6:.0f}M, 4 rows of {new_tokens}"
        return [row(title, f"{words}; {equal or 'ids equal'}", equal is None)]

    def export(self) -> list[Report]:
        """The SavedModel of a trained model, loaded again, beside the live model."""
        import tensorflow as tf

        import tfllm
        from tfllm.experiment import stop_ids
        from tfllm.export.saved_model import export_saved_model

        _all_digits(True)
        with self._device():
            lm = tfllm.load(self._float32(), jit_compile=self.jit_compile)
            path = export_saved_model(
                lm.model,
                lm.tokenizer,
                self.folder / "export",
                generation=lm.config.generation,
                stop_ids=stop_ids(lm.tokenizer),
                max_new_tokens=16,
            )
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            reloaded = tf.saved_model.load(str(path))
            answers = reloaded.signatures["serving_default"](prompt=tf.constant(_PROMPTS))["text"].numpy()
            live = lm.generate(_PROMPTS)
        same = sum(a.decode() == b for a, b in zip(answers, live, strict=True))
        words = f"{same} of {len(live)} answers equal the live model's, {size / 1e6:.1f} MB"
        return [row("export and reload", words, same == len(live))]

    def deterministic(self) -> list[Report]:
        """Two runs with training.deterministic, digit for digit. Comes last: the process stays so."""
        overrides = ["training.deterministic=true", "training.precision=mixed_bfloat16"]
        if self.kind == "TPU":
            return [row("deterministic", "not measured: a TPU is so without asking")]
        first, second = (_losses(self._once(f"deterministic_{i}", *overrides, tf32=True)) for i in "12")
        different = int((first != second).sum())
        words = f"{different} of {len(first)} losses differ between two runs"
        return [row("deterministic, mixed_bfloat16", words, not different)]

    def _mixed(self, precision: str) -> list[Report]:
        other = lambda: self._once(precision, f"training.precision={precision}")  # noqa: E731
        return [self._beside(precision, self._float32, other, LIMITS[precision], "float32's")]

    def _beside(
        self, title: str, plain: Callable[[], Path], other: Callable[[], Path], limit: float, whose: str
    ) -> Report:
        ours, theirs = _losses(other()), _losses(plain())
        if not (np.isfinite(ours).all() and len(ours) == len(theirs) == self.steps):
            return row(title, f"{len(ours)} losses, {ours.tolist()}, beside {len(theirs)}", False)
        difference = float(np.abs(ours / theirs - 1.0).max())
        words = (
            f"loss {ours[0]:.4f} -> {ours[-1]:.4f}; from {whose} {difference:.1e} at most, limit {limit:g}"
        )
        return row(title, words, difference < limit)

    def _reference(self) -> Path:
        return self._once("cpu", on_cpu=True)

    def _float32(self) -> Path:
        return self._once("float32")

    def _once(self, name: str, *overrides: str, tf32: bool = False, on_cpu: bool = False) -> Path:
        """Trains into a run folder; where that is done already, returns at once."""
        import tensorflow as tf

        from tfllm.config import config_from_mapping
        from tfllm.experiment.run import train
        from tfllm.training.display import Display

        _all_digits(not tf32)
        run = self.folder / name
        words = ["distribution.type=tpu"] if self.kind == "TPU" and not on_cpu else []
        config = config_from_mapping(self._config(), [*words, *overrides])
        place = tf.device("CPU:0") if on_cpu else self._device()
        # A strategy of several devices places by itself.
        with contextlib.nullcontext() if "mirrored" in config.distribution.type else place:
            train(config, run, Display(total_steps=self.steps, silent=True))
        return run

    def _config(self) -> dict[str, Any]:
        """A small model on real English: dropout, clipping, packing and XLA as users have them."""
        text = self.folder / "text.txt"
        if not text.exists():
            text.write_text("\n\n".join(sentences(300, 40, 400)))
        return {
            "name": "device",
            "tokenizer": "byte",
            "model": {"num_layers": 2, "hidden_dim": 64, "num_heads": 4, "num_kv_heads": 2, "dropout": 0.1},
            "data": {
                "train": {"type": "text_files", "path": str(text), "split_on": "\n\n"},
                "seq_len": 64,
                "cache_dir": str(self.folder / "cache"),
            },
            "optimizer": {"learning_rate": 1e-3, "clip_norm": 1.0},
            "training": {
                "steps": self.steps,
                "global_batch_size": 8,
                "log_every": 1,
                "jit_compile": self.jit_compile,
            },
            "generation": {"max_new_tokens": 16},
        }

    def _device(self) -> contextlib.AbstractContextManager[Any]:
        """Where TensorFlow computes by itself; on a machine with CPUs only, the one that stands in for another."""
        import tensorflow as tf

        return tf.device("CPU:1") if self.kind == "CPU" else contextlib.nullcontext()


def _make_two(device: Any, kind: str) -> None:
    """Splits the only device, so that the paths of several run on it; NCCL does not take part then."""
    import tensorflow as tf

    limit = {"memory_limit": _HALF_MEGABYTES} if kind == "GPU" else {}
    if tf.config.get_logical_device_configuration(device) is not None:
        return  # somebody has
    halves = [tf.config.LogicalDeviceConfiguration(**limit) for _ in range(2)]
    tf.config.set_logical_device_configuration(device, halves)


def _all_digits(wanted: bool) -> None:
    """Multiply float32 as it is, or with factors in TF32 where the GPU can. Before what uses it is compiled."""
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(not wanted)


def _entries(run: Path) -> list[dict[str, Any]]:
    return [entry for entry in read_metrics(run / "metrics.jsonl") if entry["split"] == "train"]


def _losses(run: Path) -> np.ndarray:
    return np.array([entry["loss"] for entry in _entries(run)])


def _first_difference(ours: list[list[int]], theirs: list[list[int]]) -> str | None:
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a != b:
            place = next(
                (i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), "the end"
            )
            return f"row {number} differs from token {place} on"
    return None


if __name__ == "__main__":
    main()
