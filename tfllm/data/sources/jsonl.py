"""JSON lines: one object a line, one document an object."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfllm.data.record import TEXT, Record, with_text
from tfllm.data.sources.file_kind import HEAD_BYTES
from tfllm.data.sources.file_source import FileSource
from tfllm.data.sources.files import (
    check_is_text,
    is_gzip,
    opened,
)
from tfllm.data.sources.source import TextSource, settings_digest

_WORDS = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "a text"}


class JsonlSource(FileSource, TextSource):
    """Files of JSON objects, one a line, plain or gzip; one document an object, or one record where there are columns.
    Blank lines are passed over.

    Args:
        path: A path or glob, or a list of them; `**` matches any depth.
        text_key: The key of the text in each object, where no columns are named.
        columns: The key of each column, by the column's name; other keys keep their names. A record has values of any
            kind.
        on_error: "raise", or "skip" a line that is broken, lacks the key or holds no string, and a file that is
            no text (counted in `skipped`).
        section: What messages call the settings: the section of the config.

    Attributes:
        skipped: Lines and files passed over by the last reading.
        notices: What it found strange.

    Raises:
        DataError: No file matches, or (from `documents`) a line is bad; it names the file and 1-based line.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        text_key: str = "text",
        *,
        columns: Mapping[str, str] | None = None,
        on_error: str = "raise",
        section: str = "data.train",
    ):
        super().__init__(path, section=section, on_error=on_error)
        self.text_key, self.columns = text_key, dict(columns or {})

    def records(self) -> Iterator[Record]:
        """Yield a record a line, with all its keys."""
        return self._of_each(self._records)

    def documents(self) -> Iterator[str]:
        """Yield the text of each line."""
        return self._of_each(self._documents)

    def describe(self) -> str:
        """Return the path, how many files it matches, and the key."""
        keys = f"keys {list(self.columns.values())}" if self.columns else f"key {self.text_key!r}"
        return f"JSON lines {self.path} ({len(self.files)} files), {keys}"

    def fingerprint(self) -> str:
        """Return a digest of the files' contents and the settings."""
        return settings_digest(
            type="jsonl",
            content=self._content,
            gzipped=[is_gzip(file) for file in self.files],
            text_key=self.text_key,
            on_error=self.on_error,
            **({"columns": self.columns} if self.columns else {}),
        )

    def _records(self, file: Path) -> Iterator[Record]:
        for number, line in enumerate(_lines(file), start=1):
            if not line.strip():
                continue
            place = f"{file}:{number}"
            try:
                yield Record(self._fields(line, whole=number == 1), place, f"{self.section}.columns")
            except ValueError as error:
                self._broken(f"{place}: {error}", error)

    def _documents(self, file: Path) -> Iterator[str]:
        for number, line in enumerate(_lines(file), start=1):
            if not line.strip():
                continue
            try:
                yield self._text(_parsed(line, [self.text_key], whole=number == 1))
            except ValueError as error:
                self._broken(f"{file}:{number}: {error}", error)

    def _fields(self, line: bytes, *, whole: bool) -> Mapping[str, Any]:
        if not self.columns:
            found = _parsed(line, [self.text_key], whole=whole)
            if self.text_key not in found and self.on_error == "raise" and self.text_key == TEXT:
                return with_text(found)  # whoever asks for a text that is not there is told so
            by_words = with_text({name: value for name, value in found.items() if name != TEXT})
            if self.text_key not in found and TEXT in by_words:
                return by_words
            return {**found, TEXT: self._text(found)}
        found = _parsed(line, list(self.columns.values()), whole=whole)
        for name, key in self.columns.items():
            if key not in found:
                keys = ", ".join(map(repr, list(found)[:20]))
                raise ValueError(
                    f"no key {key!r}, which {self.section}.columns.{name} names; the keys are {keys or 'none'}"
                )
            if isinstance(found[key], str) and not _is_unicode(found[key]):
                raise ValueError(f"{key!r} holds half of a surrogate pair; write the whole character")
        given = {key: name for name, key in self.columns.items()}
        others = {key: value for key, value in found.items() if key not in given and key not in self.columns}
        return with_text({**others, **{name: found[key] for name, key in self.columns.items()}})

    def _text(self, found: Mapping[str, Any]) -> str:
        key = f"{self.section}.text_key"
        if self.text_key not in found:
            keys = ", ".join(map(repr, list(found)[:20]))
            raise ValueError(f"no key {self.text_key!r}; the keys are {keys or 'none'}; set {key}")
        text = found[self.text_key]
        if not isinstance(text, str):
            raise ValueError(f"{self.text_key!r} must be a string, not {_kind(text)}; set {key}")
        if not _is_unicode(text):
            raise ValueError(f"{self.text_key!r} holds half of a surrogate pair; write the whole character")
        return text


def _parsed(line: bytes, keys: Sequence[str], *, whole: bool) -> dict[str, Any]:
    try:
        text = line.strip().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} of the line is not UTF-8; save the file as UTF-8") from error
    try:
        record = _loads(text)
    except json.JSONDecodeError as error:
        if whole and (text == "{" or text.startswith("[")):
            raise ValueError(
                "one JSON text over several lines, not JSON lines; write one object a line (jq -c '.[]' of a list)"
            ) from error
        raise ValueError(f"not valid JSON ({error.msg}, column {error.colno}); mend the line") from error
    except RecursionError:
        raise ValueError("lists and objects are nested too deep; mend the line") from None
    if not isinstance(record, dict):
        mend = "; write each of its items on a line of its own" if isinstance(record, list) else ""
        raise ValueError(f"a line must hold a JSON object, not {_kind(record)}{mend}")
    for key in keys:
        if text.count(json.dumps(key)) > 1:
            _check_once(text, key)
    return record


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # a number of more digits than Python makes an int of; it is no text in any case
        return json.loads(text, parse_int=str)


def _check_once(text: str, key: str) -> None:
    """Which of two values is meant, nobody knows; JSON's readers differ."""
    outermost: list[tuple[str, Any]] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        outermost[:] = found  # of the objects, the outermost ends last
        return dict(found)

    json.loads(text, object_pairs_hook=pairs, parse_int=str)
    if [name for name, _ in outermost].count(key) > 1:
        raise ValueError(f"has the key {key!r} twice; keep one of them")


def _kind(value: Any) -> str:
    return _WORDS.get(type(value), "a list" if isinstance(value, list) else "an object")


def _is_unicode(text: str) -> bool:
    """JSON may escape half of a surrogate pair, which no UTF-8 text and no tokenizer can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lines(file: Path) -> Iterator[bytes]:
    """Yield the lines, whatever ends them: inside JSON's texts a line end is always escaped."""
    with opened(file) as stream:
        check_is_text(file, stream.peek(HEAD_BYTES)[:HEAD_BYTES])
        for line in stream:
            yield from line.rstrip(b"\r\n").split(b"\r")
