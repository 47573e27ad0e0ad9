"""Starting TensorFlow: without its start-up notices, and with memory that it keeps."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import IO


def start_tensorflow() -> None:
    """Imports TensorFlow and looks for devices, holding its notices back.

    On the CPU, TensorFlow is told to keep the memory that it has been given. A compiled training step works
    in one large buffer, which the C library would give back to the system after each step, and get back a
    page at a time: measured, a tenth to a fifth of the time. Set `TF_CPU_ALLOCATOR_USE_BFC=false` in the
    environment to have that instead.

    On a machine without a GPU TensorFlow writes several lines about missing CUDA before any log level
    applies. They are shown only when the import fails. A GPU that is there, and that TensorFlow cannot use, is
    said in one line: computing on the CPU instead takes a hundred times as long.
    """
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    os.environ.setdefault("TF_CPU_BFC_MEM_LIMIT_IN_MB", str(_memory_bytes() >> 20))
    sys.stderr.flush()
    kept = os.dup(2)
    with _scratch_file() as notices:
        os.dup2(notices.fileno(), 2)
        failed = True
        try:
            import tensorflow as tf

            found = {device.device_type for device in tf.config.list_physical_devices()}
            # Texts of many lengths are traced once for each bucket, and that is meant.
            tf.get_logger().addFilter(_is_no_advice_on_tracing)
            failed = False
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            if failed:
                notices.seek(0)
                sys.stderr.write(notices.read().decode(errors="replace"))
    if "GPU" not in found and _has_hidden_gpu():
        print(
            "notice: this machine has an NVIDIA GPU, but TensorFlow finds no CUDA libraries for it and computes on"
            " the CPU; pip install 'tensorflow[and-cuda]', or set CUDA_VISIBLE_DEVICES=-1 to mean the CPU",
            file=sys.stderr,
        )


def _is_no_advice_on_tracing(record: logging.LogRecord) -> bool:
    return "triggered tf.function retracing" not in record.getMessage()


def _has_hidden_gpu() -> bool:
    """Whether there is a GPU that the environment does not hide."""
    return Path("/dev/nvidia0").exists() and os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1")


def _scratch_file() -> IO[bytes]:
    """In memory, where the system has such files: no folder for temporary ones is needed."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("notices"), "w+b")
    return tempfile.TemporaryFile()


def _memory_bytes() -> int:
    """The machine's; where the system does not say, more than any has."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 1 << 50
