"""Real prose that every Python carries: the language reference and the standard library's docstrings."""

from __future__ import annotations

import ast
import hashlib
import importlib
import os
import platform
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from tfllm.data.errors import DataError, check_choice
from tfllm.data.sources.source import TextSource, settings_digest

PARTS = ("topics", "docstrings")

# Not the library's own prose: tests, installed packages, and programs that ship beside it. distutils and
# lib2to3 have left newer Pythons; without them the corpus is nearly the same on every version.
_SKIPPED_FOLDERS = frozenset(
    ("test", "tests", "idlelib", "lib2to3", "distutils", "turtledemo", "site-packages", "dist-packages")
)


class PythonDocsSource(TextSource):
    """The documentation inside the running Python: about 2 MB of technical English, with nothing to download.

    Modules are read with `ast` and never imported. The text differs a little between Python versions.

    Args:
        parts: Which of "topics" (the language reference; one document a topic) and "docstrings" (the standard
            library; one document a module: each docstring under its qualified name, in source order).
        section: What messages call the settings: the section of the config.

    Raises:
        DataError: An unknown part, or a Python without its documentation or its library's source files.
    """

    def __init__(self, parts: Sequence[str] = PARTS, *, section: str = "data.train"):
        if isinstance(parts, str) or not parts:
            raise DataError(f"parts={parts!r} must be a list of one or more of 'topics', 'docstrings'")
        self.parts = tuple(check_choice("parts", part, PARTS) for part in parts)
        self.section = section

    def documents(self) -> Iterator[str]:
        """Yield topics in order of their names, then modules in order of their paths."""
        if "topics" in self.parts:
            yield from (text for _, text in sorted(_topics(self.section).items()))
        if "docstrings" in self.parts:
            root = _library_root()
            for file in _library_files(root, self.section):
                if text := _module_text(_module_name(file.relative_to(root)), file.read_bytes()):
                    yield text

    def describe(self) -> str:
        """Return the parts and the version of Python."""
        return f"documentation of Python {platform.python_version()} ({', '.join(self.parts)})"

    def fingerprint(self) -> str:
        """Return a digest of the version, the parts and the text they are read from (parsing nothing)."""
        digest = hashlib.sha256()
        if "topics" in self.parts:
            digest.update(repr(sorted(_topics(self.section).items())).encode())
        if "docstrings" in self.parts:
            root = _library_root()
            for file in _library_files(root, self.section):
                digest.update(_module_name(file.relative_to(root)).encode() + b"\0")
                digest.update(hashlib.sha256(file.read_bytes()).digest())
        return settings_digest(
            type="python_docs",
            parts=self.parts,
            python=platform.python_version(),
            content=digest.hexdigest(),
        )


def _topics(section: str) -> dict[str, str]:
    try:
        return dict(importlib.import_module("pydoc_data.topics").topics)
    except ImportError as error:
        raise DataError(
            f"{section}: this Python has no pydoc_data.topics; use parts=('docstrings',), another Python, or other text"
        ) from error


def _library_root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _library_files(root: Path, section: str) -> list[Path]:
    files: list[Path] = []
    for folder, subfolders, names in os.walk(root):
        # Pruned while walking: installed packages may outnumber the library by far.
        subfolders[:] = [name for name in subfolders if name not in _SKIPPED_FOLDERS]
        files += [Path(folder, name) for name in names if name.endswith(".py")]
    files = [file for file in files if not _is_of_this_build(file.relative_to(root))]
    if not files:
        raise DataError(
            f"{section}: no Python source files under {root}; use parts=('topics',), another Python, or other text"
        )
    return sorted(files, key=lambda file: file.relative_to(root).parts)


def _is_of_this_build(relative: Path) -> bool:
    return relative.parts[0].startswith(("config-", "_sysconfigdata"))


def _module_name(relative: Path) -> str:
    parts = relative.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _module_text(name: str, source: bytes) -> str:
    """Return a module's docstrings, each under its qualified name, or "" if it has none."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # invalid escapes in other people's docstrings are not our user's concern
        tree = ast.parse(source)
    sections = [f"{qualified}\n\n{text}\n" for qualified, text in _docstrings(tree, name)]
    return "\n".join(sections)


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    if documented and (text := ast.get_docstring(node)):  # type: ignore[arg-type]  # narrowed by `documented`
        # Half a surrogate pair, as some docstrings escape to show it, cannot be encoded.
        yield name, text.strip().encode(errors="replace").decode()
    for field in ("body", "handlers", "orelse", "finalbody"):  # definitions may stand under `if` and `try`
        children = getattr(node, field, [])
        for child in children if isinstance(children, list) else []:
            inner = getattr(child, "name", None) if not isinstance(child, ast.ExceptHandler) else None
            yield from _docstrings(child, f"{name}.{inner}" if inner else name)
