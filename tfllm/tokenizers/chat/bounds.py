"""What the operations of a chat template may make: filters, tests, operators and methods that can grow are bounded."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jinja2 import pass_context
from jinja2.runtime import Undefined
from markupsafe import Markup

from tfllm.tokenizers.chat.budget import TooMuch, budget

_MOST_BITS = 10_000  # of a number
_LARGEST_COUNT = 100_000  # a width, a number of parts
_WIDEST_FIELD = 9_999  # of a formatted value
_PADDING = ("center", "ljust", "rjust", "zfill")
# Filters that look into values or pass them on; all others write them out, or compare them.
_PASSING = (
    *(
        "length",
        "count",
        "first",
        "last",
        "list",
        "select",
        "reject",
        "selectattr",
        "rejectattr",
        "map",
        "default",
    ),
    *("d", "items", "attr", "abs", "reverse", "tojson"),
)
_GATHERING = ("join", "sum", "sort", "unique", "min", "max", "batch", "slice", "groupby", "list")
_COUNTING = ("center", "indent", "batch", "slice", "round", "truncate")


class Counted:
    """What a loop goes through; each value is a step."""

    def __init__(self, values: Iterable[Any], cost: int):
        self._values, self._cost = values, cost

    def __iter__(self) -> Iterator[Any]:
        return budget().counted(self._values, self._cost)

    def __len__(self) -> int:
        return len(self._values)  # type: ignore[arg-type]  # TypeError where it has no length, as Jinja expects


@pass_context  # so that it is not computed once for all
def step(context: Any, value: Any) -> Any:
    """A value that is passed on, at the cost of a step."""
    budget().step()
    return value


_SCALARS = frozenset([str, int, bool, float, type(None)])


def sized(value: Any) -> Any:
    """A value that is new, or is about to be compared."""
    if type(value) not in _SCALARS and isinstance(value, list | tuple | dict):
        budget().size(value)
    return value


def joined(values: Iterable[Any]) -> str:
    """What `~` makes."""
    spent = budget()
    spent.step()
    spent.size(values)
    return spent.made("".join(map(str, values)))


def printed(value: Any) -> Any:
    """What is about to be printed."""
    spent = budget()
    spent.output(len(value) if isinstance(value, str) else spent.size(value))
    return value


def bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja, bounded; `name` is what templates call it."""
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        spent = budget()
        passed, own = args[:skipped], list(args[skipped:])
        if name in _GATHERING and own and not isinstance(own[0], str | Mapping | list | tuple | Undefined):
            own[0] = list(spent.counted(own[0]))
        if name not in _PASSING:
            spent.size([own, kwargs])
        if name in _COUNTING:
            _check_counts(name, [*own[1:], *kwargs.values()])
        if name in _FILTER_CHECKS:
            _FILTER_CHECKS[name](*own, **kwargs)
        found = function(*passed, *own, **kwargs)
        if name in ("batch", "slice"):  # they may hold a filler many times
            found = list(found)
            spent.size(found)
        return spent.made(str.__str__(found) if isinstance(found, Markup) else found)

    return bounded


def bounded_test(function: Callable[..., Any]) -> Callable[..., Any]:
    """A test of Jinja, bounded."""

    @functools.wraps(function)
    def bounded(*args: Any) -> Any:
        for arg in args:
            sized(arg)
        return function(*args)

    return bounded


def _check_counts(name: str, counts: Iterable[Any]) -> None:
    for count in counts:
        if isinstance(count, int | float) and abs(count) > _LARGEST_COUNT:
            raise TooMuch(f"{name} is asked for {count}")


def _check_replace(text: Any, old: Any, new: Any, *_: Any, **__: Any) -> None:
    text, old, new = str(text), str(old), str(new)
    budget().check_length(len(text) + text.count(old) * len(new))


def _check_join(values: Any, between: Any = "", *_: Any, **__: Any) -> None:
    if isinstance(values, list | tuple | dict | str):
        budget().check_length(budget().size(values) + len(values) * len(str(between)))


def _check_indent(text: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    width = width if isinstance(width, int) else len(str(width))
    budget().check_length((str(text).count("\n") + 1) * width)


def _check_percent(text: Any, values: Any) -> None:
    text = str(text)
    total = 0
    for width, precision in _PERCENT.findall(text):
        for digits in filter(None, (width, precision)):
            if digits == "*" or len(digits) > len(str(_WIDEST_FIELD)):
                raise TooMuch(f"it formats a field {digits} wide")
            total += int(digits)
    budget().check_length(total + text.count("%") * budget().size(values))


def _check_format(text: Any, *args: Any, **kwargs: Any) -> None:
    _check_percent(text, kwargs or args)


_PERCENT = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(\*|\d*)(?:\.(\*|\d*))?")
_FILTER_CHECKS: dict[str, Callable[..., None]] = {
    "replace": _check_replace,
    "join": _check_join,
    "indent": _check_indent,
    "format": _check_format,
}


def check_width(format_spec: str) -> None:
    """Raises where a format asks for too wide a field."""
    for digits in re.findall(r"\d+", format_spec):
        if len(digits) > len(str(_WIDEST_FIELD)):
            raise TooMuch(f"it formats a field {digits[:12]} wide")


def check_method(text: str, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raises where a method of a text would make too much of it."""
    given = [*args, *kwargs.values()]
    if name in _PADDING and given and isinstance(given[0], int):
        budget().check_length(given[0])
    elif name == "expandtabs" and given and isinstance(given[0], int):
        budget().check_length(text.count("\t") * given[0])
    elif name == "replace" and len(given) > 1:
        _check_replace(text, given[0], given[1])
    elif name == "join" and given:
        _check_join(given[0], text)


def check_binop(operator: str, left: Any, right: Any) -> None:
    """Raises where an operator would make too much."""
    spent = budget()
    if operator == "%" and isinstance(left, str):
        _check_percent(left, right)
    elif operator == "*":
        for parts, times in ((left, right), (right, left)):
            if isinstance(parts, str | list | tuple | bytes) and isinstance(times, int) and times > 0:
                length = spent.size(parts) if isinstance(parts, list | tuple) else len(parts)
                spent.check_length(length * times)
    elif operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
        spent.check_length(len(left) + len(right))
    if isinstance(left, int) and isinstance(right, int) and operator in ("*", "**"):
        bits = (left.bit_length(), right.bit_length())
        if (bits[0] * abs(right) if operator == "**" else sum(bits)) > _MOST_BITS:
            raise TooMuch("it computes with a number too large")


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson`, as transformers has it: Jinja's own writes `<` as `\\u003c`, for web pages."""
    for longest in (indent, *(map(len, separators or ()))):
        if longest is not None and (len(longest) if isinstance(longest, str) else longest) > 16:
            raise TooMuch("tojson is asked for an indent, or a separator, of more than 16 characters")
    spent = budget()
    spent.size(value)
    text = json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    # What marks a place in a text must stay one character.
    return spent.made(re.sub(r"\\ufd([de][0-9a-f])", lambda found: chr(0xFD00 + int(found[1], 16)), text))
