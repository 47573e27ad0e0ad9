"""Marks in what goes into a chat template, which tell in its text what came from whom."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tfllm.tokenizers.errors import TokenizerError

Span = tuple[int, int]
# Unicode keeps these 32 for such use: no text holds them, and no vocabulary.
_NONCHARACTERS = tuple(map(chr, range(0xFDD0, 0xFDF0)))
_UNTOUCHED = ("type", "id", "tool_call_id")  # templates compare these


@dataclasses.dataclass(frozen=True)
class MarkedText:
    """A rendered chat without its marks.

    Args:
        text: The text.
        names: Where a message, a tool or a variable wrote the name of a control token.
        breaks: Where two things meet that must not make such a name together.
        firsts: Message to where what it says begins.
        lasts: Message to where that ends.
        answers: What stands between marks of the template's own, in pairs.
    """

    text: str
    names: tuple[Span, ...] = ()
    breaks: tuple[int, ...] = ()
    firsts: Mapping[int, int] = dataclasses.field(default_factory=dict)
    lasts: Mapping[int, int] = dataclasses.field(default_factory=dict)
    answers: tuple[Span, ...] = ()

    def is_the_templates(self, start: int, end: int) -> bool:
        """Whether the template itself wrote a control token there."""
        if any(start <= first and last <= end for first, last in self.names):
            return False
        return not any(start < place < end for place in self.breaks)


class Marks:
    """Writes marks and reads them.

    Names of control tokens are put between two marks, so that a template that looks for them in a content still finds
    them. Where a content's edge is a part of such a name, a mark keeps it from growing together with its neighbour.

    Args:
        names: Of control tokens.
        ends: Of those that end a turn.
        taken: Texts whose characters are not to be used for marks.
    """

    def __init__(self, names: Iterable[str], ends: Iterable[str], taken: Iterable[str]):
        self._names, self._ends = tuple(names), tuple(ends)
        used = set().union(*(set(text) & set(_NONCHARACTERS) for text in taken))
        free = [character for character in _NONCHARACTERS if character not in used]
        if len(free) < 8:
            raise TokenizerError(
                "the chat holds characters that no text holds, U+FDD0 to U+FDEF; remove them"
            )
        self._open, self._close, self._break, self._first, self._last, *digits, self.answer = free[:8]
        self._digits = "".join(digits)

    def guarded(self, value: Any, key: str = "") -> Any:
        """A value with marks around names of control tokens, in all its texts."""
        if isinstance(value, str):
            return self._guarded_text(value, key)
        if isinstance(value, dict):
            return {
                self._wrapped(k) if isinstance(k, str) else k: self.guarded(v, str(k))
                for k, v in value.items()
            }
        if isinstance(value, list):
            return [self.guarded(each, key) for each in value]
        return value

    def wrapped(self, value: Any) -> Any:
        """The same for variables of a template, which it compares: whole names only."""
        return self.guarded(value, "type")

    def placed(self, message: Mapping[str, Any], index: int) -> dict[str, Any]:
        """A message with marks where what it says begins and ends."""
        placed = dict(message)
        for key in ("content", "reasoning_content", "thinking", "reasoning", "tool_calls"):
            if key in placed:
                placed[key] = self._placed(placed[key], index, key)
        return placed

    def _placed(self, value: Any, index: int, key: str) -> Any:
        if isinstance(value, str):
            head, core, tail = _stripped(value)
            return (
                f"{head}{self._at(self._first, index)}{core}{self._at(self._last, index)}{tail}"
                if core
                else value
            )
        if isinstance(value, dict):
            return {
                k: v if k in _UNTOUCHED or k == "role" else self._placed(v, index, k)
                for k, v in value.items()
            }
        return [self._placed(each, index, key) for each in value] if isinstance(value, list) else value

    def _at(self, mark: str, index: int) -> str:
        return f"{mark}{''.join(self._digits[int(bit)] for bit in f'{index:b}')}{mark}"

    def _wrapped(self, text: str) -> str:
        pattern = _pattern(self._names)
        return pattern.sub(f"{self._open}\\g<0>{self._close}", text) if pattern else text

    def _guarded_text(self, text: str, key: str) -> str:
        if key in _UNTOUCHED:
            return self._wrapped(text)
        head, core, tail = _stripped(text)
        parts = _parts(self._ends if key == "role" else self._names)
        grows = parts.grow(core) if core else (False, False)
        if key == "role":
            grows = (False, parts.holds(core))
        before, behind = (self._break if each else "" for each in grows)
        return f"{head}{before}{self._wrapped(core)}{behind}{tail}"

    def read(self, marked: str) -> MarkedText:
        """Takes the marks out of a text."""
        places = f"[{self._first}{self._last}]"
        pattern = re.compile(
            f"({places})([{self._digits}]+)\\1|({self._open})|({self._close})|({self.answer})"
            f"|{self._break}|{places}|[{self._digits}]"
        )
        pieces, names, breaks, answers = list[str](), list[Span](), list[int](), list[int]()
        firsts: dict[int, int] = {}
        lasts: dict[int, int] = {}
        opened, length, read = None, 0, 0
        for found in pattern.finditer(marked):
            pieces.append(marked[read : found.start()])
            length += found.start() - read
            read = found.end()
            place, digits, opens, closes, answer = found.groups()
            if place == self._first:
                firsts.setdefault(self._number(digits), length)
            elif place == self._last:
                lasts[self._number(digits)] = length
            elif answer:
                answers.append(length)
            else:
                breaks.append(length)
            if closes and opened is not None:
                names.append((opened, length))
            opened = length if opens else None
        pieces.append(marked[read:])
        spans = tuple(zip(answers[::2], answers[1::2], strict=False))
        return MarkedText("".join(pieces), tuple(names), tuple(breaks), firsts, lasts, spans)

    def _number(self, digits: str) -> int:
        return int("".join(str(self._digits.index(digit)) for digit in digits), 2)


class _Parts:
    """Parts of names."""

    def __init__(self, names: tuple[str, ...]):
        self._joined = "\0".join(names)
        self._longest = max(map(len, names), default=0)
        self._heads = {name[:n] for name in names for n in range(1, len(name))}
        self._tails = {name[n:] for name in names for n in range(1, len(name))}

    def grow(self, text: str) -> tuple[bool, bool]:
        """Whether a text may become part of a name with what stands before it, and behind it."""
        lengths = range(1, min(len(text), self._longest - 1) + 1)
        before = any(text[:n] in self._tails for n in lengths)
        return before, any(text[-n:] in self._heads for n in lengths) or self.holds(text)

    def holds(self, text: str) -> bool:
        """Whether a text is part of a name."""
        return len(text) <= self._longest and text in self._joined


@functools.lru_cache(maxsize=16)
def _parts(names: tuple[str, ...]) -> _Parts:
    return _Parts(names)


@functools.lru_cache(maxsize=16)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True)))) if names else None


def _stripped(text: str) -> tuple[str, str, str]:
    """White space before, the text, white space behind."""
    core = text.strip()
    start = text.find(core)
    return text[:start], core, text[start + len(core) :]
