"""Files of SQuAD: paragraphs, and questions about each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfllm.data.errors import DataError
from tfllm.data.record import Record
from tfllm.data.sources.file_source import FileSource
from tfllm.data.sources.files import NotText, check_is_text, is_gzip, opened
from tfllm.data.sources.source import settings_digest


class SquadSource(FileSource):
    """JSON files as SQuAD 1.1 and 2.0 have them (Rajpurkar et al. 2016, 2018), plain or gzip; a record a question.

    A record has `question`, `context`, and `answers`, a list of `{text, answer_start}`, empty where the context has
    none; `id` and `title` too, where the file says them.

    Args:
        path: A path or glob, or a list of them.
        section: What messages call the settings: the section of the config.

    Raises:
        DataError: No file matches, or (from `records`) a file is none of these; it names the place in it.
    """

    def __init__(self, path: str | Path | Sequence[str | Path], *, section: str = "data.train"):
        super().__init__(path, section=section)

    def records(self) -> Iterator[Record]:
        """Yield a record a question."""
        return self._of_each(self._records)

    def describe(self) -> str:
        """Return the path and how many files it matches."""
        return f"SQuAD {self.path} ({len(self.files)} files)"

    def fingerprint(self) -> str:
        """Return a digest of the files' contents."""
        return settings_digest(
            type="squad", content=self._content, gzipped=[is_gzip(file) for file in self.files]
        )

    def _records(self, file: Path) -> Iterator[Record]:
        with opened(file) as stream:
            content = stream.read()
        check_is_text(file, content[:4096])
        try:
            articles = _listed(json.loads(content.decode("utf-8-sig")), "data", "")
            for index, article in enumerate(articles):
                yield from self._of_article(file, article, f"data[{index}]")
        except UnicodeDecodeError as error:
            raise NotText(f"{file}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
        except json.JSONDecodeError as error:
            raise DataError(
                f"{file}:{error.lineno}: not valid JSON ({error.msg}); JSON lines are read by type: jsonl"
            ) from error
        except RecursionError:
            raise DataError(f"{file}: lists and objects are nested too deep; mend the file") from None
        except _NotSquad as error:
            raise DataError(
                f"{file}: {error}; write it as SQuAD has it, or as JSON lines (type: jsonl) with question, context and"
                " answers"
            ) from None

    def _of_article(self, file: Path, article: Any, place: str) -> Iterator[Record]:
        for index, paragraph in enumerate(_listed(article, "paragraphs", place)):
            at = f"{place}.paragraphs[{index}]"
            context = _text(paragraph, "context", at)
            for number, asked in enumerate(_listed(paragraph, "qas", at)):
                here = f"{at}.qas[{number}]"
                fields = {"question": _text(asked, "question", here), "context": context}
                impossible = isinstance(asked, Mapping) and asked.get("is_impossible") is True
                fields["answers"] = [] if impossible else _listed(asked, "answers", here)
                more = {"id": asked.get("id"), "title": article.get("title")}
                fields |= {name: value for name, value in more.items() if isinstance(value, str)}
                yield Record(fields, f"{file}: {here}")


class _NotSquad(Exception):
    """The file is something else."""


def _listed(value: Any, name: str, place: str) -> list[Any]:
    if not isinstance(value, Mapping) or not isinstance(value.get(name), list):
        raise _NotSquad(f"{place or 'the file'} has no list {name!r}")
    return value[name]


def _text(value: Any, name: str, place: str) -> Any:
    if not isinstance(value, Mapping) or not isinstance(value.get(name), str):
        raise _NotSquad(f"{place} has no text {name!r}")
    return value[name]
