"""A stream that outlives its reader: what cannot be written any more is let go."""

from __future__ import annotations

import contextlib
import os
from typing import Any


class LastingStream:
    """Writes to a text stream, and never fails.

    A terminal hangs up, the reader of a pipe leaves, a disk runs full, a file is closed: a training that talks to
    one of them has more to lose than the words. Characters that the stream's encoding lacks are written as escapes.

    Args:
        stream: A text stream; None, which Python puts in the place of a closed standard stream, takes anything.
    """

    def __init__(self, stream: Any):
        self.stream = stream
        self.is_broken = stream is None

    def write(self, text: str) -> int:
        """Writes what can be written."""
        if not self.is_broken:
            try:
                self.stream.write(text)
            except UnicodeEncodeError:
                self._write_escaped(text)
            except (OSError, ValueError):  # ValueError: it was closed
                self._give_up()
        return len(text)

    def flush(self) -> None:
        """Flushes what can be flushed."""
        if not self.is_broken:
            try:
                self.stream.flush()
            except (OSError, ValueError):
                self._give_up()

    def isatty(self) -> bool:
        """Whether someone watches."""
        if self.is_broken:
            return False
        try:
            return self.stream.isatty()
        except (OSError, ValueError, AttributeError):
            return False

    def _write_escaped(self, text: str) -> None:
        encoding = getattr(self.stream, "encoding", None) or "ascii"
        try:
            self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError, LookupError):
            self._give_up()

    def _give_up(self) -> None:
        self.is_broken = True
        # What still lies in buffers goes nowhere: at its end Python would try again, and end with status 120.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            descriptor = self.stream.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        # tqdm asks for `encoding` and `fileno`.
        return getattr(self.stream, name)
