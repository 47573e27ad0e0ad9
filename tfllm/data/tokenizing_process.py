"""The program that `tfllm.data.processes` starts: pieces come on standard input, rows go to standard output."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
from typing import IO, Any


def serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer until the input ends, as it does when the parent is gone.

    Args:
        source: Pickles: first the bytes of a pickled `PieceTokenizer`, then pieces.
        sink: Takes a pickle for each piece: what `PieceTokenizer.rows` returned, or the exception it raised.
    """
    job = pickle.load(source)
    while True:
        answer: Any
        try:
            piece = pickle.load(source)
        except EOFError:
            return
        try:
            if isinstance(job, bytes):
                job = pickle.loads(job)
            answer = pickle.dumps(job.rows(piece), protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            answer = _pickled(error)
        sink.write(answer)
        sink.flush()


def _pickled(error: Exception) -> bytes:
    try:
        answer = pickle.dumps(error)
        pickle.loads(answer)  # some exceptions can be pickled, but not read back
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return answer


def main() -> None:
    """Serve the parent on the standard streams."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anything prints must not come between the answers
    with contextlib.suppress(BrokenPipeError, EOFError):
        serve(sys.stdin.buffer, sink)


if __name__ == "__main__":
    main()
