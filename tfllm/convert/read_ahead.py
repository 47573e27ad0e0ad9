"""Tensors of a checkpoint, read by another thread while the ones before them are turned into variables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np

from tfllm.convert.tensors import Tensors

_AHEAD = 12  # tensors: what is read and not asked for yet is in memory besides


class ReadAhead:
    """Reads tensors in an order that is likely to be asked for; any other order is only slower.

    Args:
        tensors: The checkpoint's.
        names: Of those that will be asked for, in their likely order.

    Example:
        >>> with ReadAhead(tensors, names) as ahead:
        ...     arrays = [ahead.take(name) for name in names]
    """

    def __init__(self, tensors: Tensors, names: Iterable[str]):
        self._tensors = tensors
        self._to_come: Iterator[str] = iter(dict.fromkeys(names))
        self._taken: set[str] = set()
        self._read: dict[str, Future[np.ndarray]] = {}
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> ReadAhead:
        self._go_on()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._read.clear()

    def take(self, name: str) -> np.ndarray:
        """One tensor, of the type it is stored in; it is not kept.

        Raises:
            ConvertError: as `Tensors.read`.
        """
        self._taken.add(name)
        future = self._read.pop(name, None)
        self._go_on()
        return self._tensors.read(name) if future is None else future.result()

    def _go_on(self) -> None:
        while len(self._read) < _AHEAD and (name := next(self._to_come, None)) is not None:
            if name not in self._taken:
                self._read[name] = self._thread.submit(self._tensors.read, name)
