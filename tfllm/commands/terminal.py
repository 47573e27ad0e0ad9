"""The standard streams as a command finds them: closed, broken, or without the characters."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator

from tfllm.training.lasting_stream import LastingStream


def mend_streams() -> None:
    """Opens what is closed, and lets no text fail for its encoding.

    A descriptor that was closed, as by `>&-`, would be given to the next file that is opened; whatever a library
    then writes to the terminal would go into that file.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
            os.set_inheritable(descriptor, True)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            with contextlib.suppress(OSError):  # it flushes
                stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Prints a line to standard error, if there is anybody."""
    stream = LastingStream(sys.stderr)
    print(text, file=stream, flush=True)


def as_text(word: str) -> str:
    """A word of the command line as the text that it is, where the locale is said to have another encoding."""
    try:
        return os.fsencode(word).decode("utf-8")
    except UnicodeError:
        return word


@contextlib.contextmanager
def lasting_streams(*, output: bool) -> Iterator[None]:
    """Standard error that breaks without a word, as what runs inside has more to lose.

    Args:
        output: Standard output too, where it does not carry the result.
    """
    before = sys.stdout, sys.stderr
    sys.stderr = LastingStream(sys.stderr)
    if output:
        sys.stdout = LastingStream(sys.stdout)
    try:
        yield
    finally:
        if output:
            sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
