"""What one rendering of a chat template may take: steps, time, and text made."""

from __future__ import annotations

import contextlib
import contextvars
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jinja2 import TemplateError
from jinja2.utils import Namespace

# The published templates with a thousand messages stay below a hundredth of each.
_STEPS, _STEPS_A_VALUE = 2_000_000, 2_000
_TEXT, _TEXT_A_CHARACTER = 4_000_000, 20
_MADE, _MADE_A_CHARACTER = 300_000_000, 1_000
_SECONDS, _SECONDS_A_VALUE = 2.0, 0.002
_CHECK_EVERY = 16  # steps


class TooMuch(TemplateError):
    """A template asks for more than a rendering may take."""


class Budget:
    """Counts what a rendering takes.

    Limits grow with what goes in, so that a long chat may take more than a short one.

    Args:
        values: Values that go in: texts, numbers, and what holds them.
        characters: Of all texts that go in.
    """

    def __init__(self, values: int = 0, characters: int = 0):
        self._steps = _STEPS + _STEPS_A_VALUE * values
        self._made = _MADE + _MADE_A_CHARACTER * characters
        self._output = self.longest = _TEXT + _TEXT_A_CHARACTER * characters
        # Of this thread only, so that a busy machine does not fail an honest template.
        self._deadline = time.thread_time() + _SECONDS + _SECONDS_A_VALUE * values
        self._next_check = self._steps

    def step(self, count: int = 1) -> None:
        """Takes steps: passes through a loop, or calls."""
        self._steps -= count
        if self._steps <= self._next_check:
            self._next_check = self._steps - _CHECK_EVERY
            if self._steps < 0:
                raise TooMuch("it takes too many steps")
            if time.thread_time() > self._deadline:
                raise TooMuch("it takes too long")

    def output(self, length: int) -> None:
        """Prints text."""
        self._output -= length
        if self._output < 0:
            raise TooMuch("it prints too much text")

    def check_length(self, length: int) -> None:
        """Raises unless a text, or a list, may be so long."""
        if length > self.longest:
            raise TooMuch(f"it makes a text or list of {length} parts")

    def made(self, value: Any) -> Any:
        """Takes the memory of a new text or list, and returns it."""
        if isinstance(value, str | list | tuple):
            self.check_length(len(value))
            parts = 64 * len(value) if not isinstance(value, str) else 0
            self._made -= sys.getsizeof(value) + parts
            if self._made < 0:
                raise TooMuch("it makes too much text")
        return value

    def size(self, value: Any) -> int:
        """How long a value is when it is written out; raises where that is too long.

        A list may hold another list many times over, and so on: what is walked is counted.
        """
        total, waiting = 0, [value]
        while waiting:
            self.step()
            each = waiting.pop()
            if isinstance(each, str):
                total += len(each)
            elif isinstance(each, Mapping):
                waiting.extend(each.keys())
                waiting.extend(each.values())
            elif isinstance(each, list | tuple | set | frozenset):
                waiting.extend(each)
            elif isinstance(each, Namespace):
                raise TooMuch("it writes out a namespace")
            elif isinstance(each, int) and not isinstance(each, bool):
                total += each.bit_length() // 3
            total += 8
            if total > self.longest:
                raise TooMuch(f"it makes a value of {total} parts")
        return total

    def counted(self, values: Iterable[Any], cost: int = 1) -> Iterator[Any]:
        """The values, each of which is a step."""
        for value in values:
            self.step(cost)
            yield value


_CURRENT: contextvars.ContextVar[Budget | None] = contextvars.ContextVar("budget", default=None)


def budget() -> Budget:
    """That of the rendering under way; one of its own where a template is only compiled."""
    return _CURRENT.get() or Budget()


@contextlib.contextmanager
def spending(made: Budget) -> Iterator[None]:
    """Makes a budget that of the rendering within."""
    token = _CURRENT.set(made)
    try:
        yield
    finally:
        _CURRENT.reset(token)
