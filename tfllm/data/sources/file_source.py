"""What sources of files have in common: which files, their content, and what is done about a bad one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from tfllm.data.errors import DataError, check_choice
from tfllm.data.sources.files import NotText, content_digest, matching_files
from tfllm.data.sources.source import Source

T = TypeVar("T")


class FileSource(Source):
    """A source that reads files, one after the other.

    Args:
        path: A path or glob, or a list of them; `**` matches any depth.
        section: What messages call the settings: the section of the config.
        on_error: What to do with what cannot be read: one of `choices`.
        choices: What `on_error` may be.

    Raises:
        DataError: No file matches.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        *,
        section: str,
        on_error: str = "raise",
        choices: Sequence[str] = ("raise", "skip"),
    ):
        self.path = path
        self.section = section
        self.on_error = check_choice("on_error", on_error, choices)
        self.files = matching_files(path, key=f"{section}.path")
        self._begin()

    @cached_property
    def _content(self) -> str:
        return content_digest(self.files)  # read once, whoever asks: the tokenizer and the rows of each split

    def _begin(self) -> None:
        """Forget what an earlier reading passed over."""
        self.skipped = 0
        self.notices: list[str] = []

    def _of_each(self, read: Callable[[Path], Iterable[T]]) -> Iterator[T]:
        """Yield what `read` gives of each file; one that is no text is broken."""
        self._begin()
        for file in self.files:
            try:
                yield from read(file)
            except NotText as error:
                self._broken(str(error), error)

    def _broken(self, message: str, error: Exception | None = None) -> None:
        """Raise, or pass over what is broken, as `on_error` says."""
        if self.on_error == "raise":
            raise DataError(f"{message}; or write {self.section}.on_error: skip") from error
        self._skip(message)

    def _skip(self, reason: str) -> None:
        if not self.skipped:
            self.notices.append(f"skipped: {reason}")
        self.skipped += 1
