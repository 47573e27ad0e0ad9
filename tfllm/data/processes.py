"""Tokenising in several processes, without TensorFlow in them.

A process is a plain `python -m tfllm.data.tokenizing_process`. `multiprocessing` is not used: fork copies the
locks that TensorFlow's threads hold, and spawn imports the user's main module again, with whatever it imports
and does.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from tfllm.data.errors import DataError
from tfllm.data.piece import Piece, PieceCounts, PieceTokenizer

_AHEAD = 2  # pieces beyond one a process that are read or done before they are written


class ProcessError(DataError):
    """A tokenising process died. The pieces that were finished before stay finished."""


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class TokenizingProcesses:
    """Processes that tokenise pieces, as a context manager.

    Args:
        tokenizer: What each of them does.
        num_processes: How many.

    Raises:
        DataError: The tokenizer cannot be sent to a process.
    """

    def __init__(self, tokenizer: PieceTokenizer, num_processes: int):
        try:
            job = pickle.dumps(tokenizer)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise DataError(
                f"the tokenizer cannot be sent to other processes ({error}); make it picklable, or set "
                "data.num_workers to 1"
            ) from error
        self._threads = ThreadPoolExecutor(num_processes)
        self._processes: list[subprocess.Popen] = []
        try:
            for _ in range(num_processes):
                self._processes.append(_start())
        except OSError as error:
            self.__exit__()
            raise ProcessError(
                f"process {len(self._processes) + 1} of {num_processes} cannot be started ({error}); set "
                "data.num_workers to less"
            ) from error
        self._idle: queue.SimpleQueue[subprocess.Popen] = queue.SimpleQueue()
        for process in self._processes:
            self._idle.put(process)
        self._job, self._given = job, set[int]()

    def __enter__(self) -> TokenizingProcesses:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._processes:  # first, so that no thread waits for an answer
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what was not sent any more
                    stream.close()  # type: ignore[union-attr]  # both are pipes

    def rows(self, pieces: Iterator[Piece]) -> Iterator[tuple[bytes, PieceCounts]]:
        """Yield what `PieceTokenizer.rows` returns for each piece, in order.

        Only a few pieces are read ahead of what was taken.

        Raises:
            ProcessError: A process died.
            DataError: The tokenizer failed, as it would have failed here.
        """
        waiting: deque[Future[tuple[bytes, PieceCounts]]] = deque()
        for piece in pieces:
            waiting.append(self._threads.submit(self._tokenize, piece))
            if len(waiting) >= len(self._processes) + _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _tokenize(self, piece: Piece) -> tuple[bytes, PieceCounts]:
        process = self._idle.get()
        assert process.stdin is not None and process.stdout is not None
        try:
            if process.pid not in self._given:
                self._given.add(process.pid)
                pickle.dump(self._job, process.stdin)
            pickle.dump(piece, process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            answer = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise _death(process) from error
        finally:
            self._idle.put(process)  # a dead one too: who takes it fails as well, and nobody waits for ever
        if isinstance(answer, BaseException):
            raise answer
        return answer


def _start() -> subprocess.Popen:
    path = os.pathsep.join(place or os.getcwd() for place in sys.path)
    # One core a process: twenty threads in each of twenty processes are slower than one in each.
    environment = {**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "tfllm.data.tokenizing_process"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _death(process: subprocess.Popen) -> ProcessError:
    try:
        status = process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        return ProcessError("a tokenising process answers no more; run the same command again to go on")
    cause = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    hint = " (as the system does when memory runs out)" if status == -signal.SIGKILL else ""
    return ProcessError(
        f"a tokenising process {cause}{hint}; what was finished is kept: run the same command again to go on, "
        "with a smaller data.num_workers if memory is short"
    )
