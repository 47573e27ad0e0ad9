"""Jinja for templates of strangers: what they may call is listed, and each operation that can grow is bounded."""

from __future__ import annotations

import datetime
import functools
import json
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from jinja2 import Template, TemplateError, nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.visitor import NodeTransformer
from markupsafe import Markup

from tfllm.tokenizers.chat.budget import Budget, TooMuch, budget, spending

MARK = "_tfllm_mark"  # a variable of templates: what to write around an answer
LONGEST_SOURCE = 100_000  # characters; the longest published template has a third
_MOST_BITS = 10_000  # of a number
_LARGEST_COUNT = 100_000  # a width, a number of parts
_CALL_STEPS = 4
_WIDEST_FIELD = 9_999  # of a formatted value
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
_GATHERING = ("join", "sum", "sort", "unique", "min", "max", "batch", "slice", "groupby", "list")
_COUNTING = ("center", "indent", "batch", "slice", "round", "truncate")
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


class _Counted:
    """What a loop goes through; each value is a step."""

    def __init__(self, values: Iterable[Any], cost: int):
        self._values, self._cost = values, cost

    def __iter__(self) -> Iterator[Any]:
        return budget().counted(self._values, self._cost)

    def __len__(self) -> int:
        return len(self._values)  # type: ignore[arg-type]  # TypeError where it has no length, as Jinja expects


class _Formatter(SandboxedFormatter):
    """`str.format` with fields of bounded width."""

    def format_field(self, value: Any, format_spec: str) -> str:
        _check_width(format_spec)
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
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation], finalize=_printed
        )
        for name in _WITHOUT_FILTERS:
            del self.filters[name]
        self.filters = {name: _bounded_filter(name, made) for name, made in self.filters.items()}
        self.filters["tojson"] = _tojson
        self.filters["_counted"] = _Counted
        self.filters["_joined"] = _joined
        self.filters["_sized"] = _sized
        self.filters["_step"] = _step
        for name in _COMPARING_TESTS:
            self.tests[name] = _bounded_test(cast(Any, self.tests[name]))
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
        return _Rewriter().visit(super()._parse(source, name, filename))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`obj[argument]` for a template."""
        return super().getitem(obj, _sized(argument))

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
            _sized(owner if isinstance(owner, list | tuple) else None)
            if isinstance(owner, str):
                _check_method(owner, __obj.__name__, args, kwargs)
        elif __obj is dict or isinstance(owner, LoopContext):
            spent.size([args, kwargs])
        return spent.made(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Computes for a template."""
        _check_binop(operator, left, right)
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


class _Rewriter(NodeTransformer):
    """Puts under the budget what the syntax of a template makes."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        cost = 1 + sum(1 for part in node.body for _ in part.find_all(nodes.Output)) // 4
        self.generic_visit(node)
        node.iter = _filtered("_counted", cast(nodes.Expr, node.iter), nodes.Const(cost, lineno=node.lineno))
        if node.recursive:  # its body hands it what to go through next
            step = _filtered("_step", nodes.Const("", lineno=node.lineno))
            node.body = [nodes.Output([step], lineno=node.lineno), *node.body]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered("_joined", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _sized_node(node.expr)
        for operand in node.ops:
            operand.expr = _sized_node(cast(nodes.Expr, operand.expr))
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _sized_node(node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _sized_node(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _sized_node(node) if node.ctx == "load" else node


def _sized_node(node: nodes.Expr) -> nodes.Expr:
    parts = [node] if not isinstance(node, nodes.List | nodes.Tuple) else node.items
    if all(isinstance(part, nodes.Const) for part in parts):
        return node
    return node if isinstance(node, nodes.Filter) and node.name == "_sized" else _filtered("_sized", node)


def _filtered(name: str, value: nodes.Expr, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, list(args), [], None, None, lineno=value.lineno)


@pass_context  # so that it is not computed once for all
def _step(context: Any, value: Any) -> Any:
    budget().step()
    return value


_SCALARS = frozenset([str, int, bool, float, type(None)])


def _sized(value: Any) -> Any:
    """A value that is new, or is about to be compared."""
    if type(value) not in _SCALARS and isinstance(value, list | tuple | dict):
        budget().size(value)
    return value


def _joined(values: Iterable[Any]) -> str:
    """What `~` makes."""
    spent = budget()
    spent.step()
    spent.size(values)
    return spent.made("".join(map(str, values)))


def _printed(value: Any) -> Any:
    """What is about to be printed."""
    spent = budget()
    spent.output(len(value) if isinstance(value, str) else spent.size(value))
    return value


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
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


def _bounded_test(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def bounded(*args: Any) -> Any:
        for arg in args:
            _sized(arg)
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


def _check_width(format_spec: str) -> None:
    for digits in re.findall(r"\d+", format_spec):
        if len(digits) > len(str(_WIDEST_FIELD)):
            raise TooMuch(f"it formats a field {digits[:12]} wide")


def _check_method(text: str, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
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


def _check_binop(operator: str, left: Any, right: Any) -> None:
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


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter writes `<` as `\u003c`, for web pages.
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


def _strftime_now(form: str) -> str:
    if len(form) > _STRFTIME_LENGTH:
        raise TooMuch(f"strftime_now is asked for {len(form)} characters")
    return datetime.datetime.now().strftime(form)


def _raise(message: Any) -> None:
    raise TemplateError(str(message)[:500])
