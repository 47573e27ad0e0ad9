"""Starting TensorFlow without its start-up notices."""

from __future__ import annotations

import os
import sys
import tempfile


def start_tensorflow() -> None:
    """Imports TensorFlow and looks for devices, holding its notices back.

    On a machine without a GPU TensorFlow writes several lines about missing CUDA before any log level
    applies. They are shown only when the import fails.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as notices:
        os.dup2(notices.fileno(), 2)
        failed = True
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
            failed = False
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            if failed:
                notices.seek(0)
                sys.stderr.write(notices.read().decode(errors="replace"))
