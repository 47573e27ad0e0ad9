"""Modules that register types of their own, imported before a config is read."""

from __future__ import annotations

import importlib
import keyword
import traceback
from collections.abc import Iterator
from typing import Any

from tfllm.config.errors import Problem
from tfllm.config.registry import RegistryError, without_failures


def import_plugins(written: Any) -> list[Problem]:
    """Imports the modules that a config's key `plugins` names; one that is imported already stays as it is.

    Args:
        written: What stands under the key: a list of dotted names, or one of them.

    Returns:
        What is wrong with them. A module that fails leaves no type registered.
    """
    if not isinstance(written, (list, tuple)):
        return list(_imported("plugins", written))
    return [problem for index, name in enumerate(written) for problem in _imported(f"plugins[{index}]", name)]


def _imported(path: str, name: Any) -> Iterator[Problem]:
    if not isinstance(name, str) or not all(_is_name(part) for part in name.split(".")):
        yield Problem(
            path, name, "is not the dotted name of a module", "write for example my_package.my_types"
        )
        return
    try:
        with without_failures():
            importlib.import_module(name)
    except RegistryError as error:
        rule, mend = str(error).rsplit("; ", 1)
        yield Problem(path, name, f"cannot be taken: its {rule}", mend)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            mend = "install its package, or add the folder that holds it to PYTHONPATH"
            yield Problem(path, name, "is not a module that Python finds", mend)
            return
        mend = f"mend it there; python -c 'import {name}' shows all of it"
        yield Problem(path, name, f"cannot be imported ({_reason(error)})", mend)


def _is_name(part: str) -> bool:
    return part.isidentifier() and not keyword.iskeyword(part)


def _reason(error: BaseException) -> str:
    """`ZeroDivisionError: division by zero, my_types.py line 3`; a SyntaxError says where by itself."""
    words = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    last = traceback.extract_tb(error.__traceback__)[-1]
    return words if isinstance(error, SyntaxError) else f"{words}, {last.filename} line {last.lineno}"
