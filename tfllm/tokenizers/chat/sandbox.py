"""Jinja for templates of strangers: what they may call is listed, and each operation that can grow is bounded."""

from __future__ import annotations

import datetime
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter

from tfllm.tokenizers.chat.bounds import (
    Counted,
    bounded_filter,
    bounded_test,
    check_binop,
    check_method,
    check_width,
    joined,
    printed,
    sized,
    step,
    tojson,
)
from tfllm.tokenizers.chat.budget import Budget, TooMuch, budget, spending
from tfllm.tokenizers.chat.rewriter import COUNTED, JOINED, SIZED, STEP, Rewriter

MARK = "_tfllm_mark"  # a variable of templates: what to write around an answer
LONGEST_SOURCE = 100_000  # characters; the longest published template has a third
_CALL_STEPS = 4
_STRFTIME_LENGTH = 200
_METHODS: dict[type, tuple[str, ...]] = {
    str: (
        *(
            "capitalize",
            "casefold",
            "center",
            "count",
            "endswith",
            "expandtabs",
            "find",
            "format",
            "format_map",
        ),
        *(
            "index",
            "isalnum",
            "isalpha",
            "isascii",
            "isdecimal",
            "isdigit",
            "isidentifier",
            "islower",
            "isnumeric",
        ),
        *("isprintable", "isspace", "istitle", "isupper", "join", "ljust", "lower", "lstrip", "partition"),
        *(
            "removeprefix",
            "removesuffix",
            "replace",
            "rfind",
            "rindex",
            "rjust",
            "rpartition",
            "rsplit",
            "rstrip",
        ),
        *("split", "splitlines", "startswith", "strip", "swapcase", "title", "upper", "zfill"),
    ),
    dict: ("copy", "get", "items", "keys", "values"),
    list: ("copy", "count", "index"),
    tuple: ("count", "index"),
    int: ("bit_length",),
    float: ("is_integer",),
}
_COMPARING_TESTS = (
    *(
        "==",
        "eq",
        "equalto",
        "!=",
        "ne",
        "in",
        ">",
        "gt",
        "greaterthan",
        ">=",
        "ge",
        "<",
        "lt",
        "lessthan",
        "<=",
        "le",
    ),
)
# None that a chat needs, and each can make much out of little.
_WITHOUT_FILTERS = ("urlize", "xmlattr", "wordwrap", "filesizeformat", "pprint", "striptags")


def compiled(source: str) -> Template:
    """Compiles a template.

    Raises:
        TooMuch: it is too long, or nested too deep.
        TemplateError: it is not Jinja.
    """
    if len(source) > LONGEST_SOURCE:
        raise TooMuch(f"it has {len(source)} characters, more than {LONGEST_SOURCE}")
    try:
        with spending(Budget()):
            return _Environment().from_string(source)
    except TemplateError:
        raise
    except Exception as error:  # of the parsers of Jinja and Python, which each have limits of their own
        raise TooMuch(f"it is nested too deep ({type(error).__name__})") from None


def rendered(template: Template, variables: dict[str, Any], limits: Budget) -> str:
    """Renders within limits; raises TooMuch beyond them, and whatever the template raises."""
    with spending(limits):
        return template.render(variables)


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}`: what stands between is what the assistant wrote."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """Parses one block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        mark = nodes.ContextReference()
        return nodes.CallBlock(self.call_method("_marked", [mark]), [], [], body).set_lineno(line)

    def _marked(self, context: Any, caller: Callable[[], str]) -> str:
        mark = context.get(MARK, "")
        return f"{mark}{caller()}{mark}"


class _Formatter(SandboxedFormatter):
    """`str.format` with fields of bounded width."""

    def format_field(self, value: Any, format_spec: str) -> str:
        check_width(format_spec)
        budget().size(value)
        return budget().made(super().format_field(value, format_spec))

    def convert_field(self, value: Any, conversion: Any) -> Any:
        if conversion:
            budget().size(value)
        return super().convert_field(value, conversion)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox with bounds."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation], finalize=printed
        )
        for name in _WITHOUT_FILTERS:
            del self.filters[name]
        self.filters = {name: bounded_filter(name, made) for name, made in self.filters.items()}
        self.filters["tojson"] = tojson
        self.filters[COUNTED] = Counted
        self.filters[JOINED] = joined
        self.filters[SIZED] = sized
        self.filters[STEP] = step
        for name in _COMPARING_TESTS:
            self.tests[name] = bounded_test(cast(Any, self.tests[name]))
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = _strftime_now

    def concat(self, pieces: Iterable[str]) -> str:
        """Joins what was printed."""
        spent, length, kept = budget(), 0, []
        for piece in pieces:
            length += len(piece)
            spent.check_length(length)
            kept.append(piece)
        return spent.made("".join(kept))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return Rewriter().visit(super()._parse(source, name, filename))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`obj[argument]` for a template."""
        return super().getitem(obj, sized(argument))

    def is_safe_callable(self, obj: Any) -> bool:
        """Whether a template may call it: of Python's own types, the methods listed."""
        owner = getattr(obj, "__self__", None)
        if isinstance(obj, types.BuiltinMethodType) and owner is not None:
            kind = next((kind for kind in _METHODS if isinstance(owner, kind)), None)
            return kind is not None and obj.__name__ in _METHODS[kind]
        return super().is_safe_callable(obj)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls for a template."""
        spent = budget()
        spent.step(_CALL_STEPS)
        owner = getattr(__obj, "__self__", None)
        if isinstance(__obj, types.BuiltinMethodType):
            if __obj.__name__ == "join" and args and not isinstance(args[0], str | Mapping | list | tuple):
                args = (list(spent.counted(args[0])),)
            spent.size([args, kwargs])
            sized(owner if isinstance(owner, list | tuple) else None)
            if isinstance(owner, str):
                check_method(owner, __obj.__name__, args, kwargs)
        elif __obj is dict or isinstance(owner, LoopContext):
            spent.size([args, kwargs])
        return spent.made(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Computes for a template."""
        check_binop(operator, left, right)
        return budget().made(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` and `str.format_map` of a text."""
        if super().wrap_str_format(value) is None:
            return None
        text, of_map = value.__self__, value.__name__ == "format_map"

        def formatted(*args: Any, **kwargs: Any) -> str:
            args, kwargs = ((), args[0]) if of_map else (args, kwargs)
            return str(_Formatter(self).vformat(text, args, kwargs))

        return formatted


def _strftime_now(form: str) -> str:
    if len(form) > _STRFTIME_LENGTH:
        raise TooMuch(f"strftime_now is asked for {len(form)} characters")
    return datetime.datetime.now().strftime(form)


def _raise(message: Any) -> None:
    raise TemplateError(str(message)[:500])
