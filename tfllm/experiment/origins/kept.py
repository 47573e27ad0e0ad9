"""Origins that several parts of one start ask for, each by the name that the config has for it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfllm.convert.gguf_parts import part_names
from tfllm.experiment.origins.origin import Origin, origin_of

_MOST = 2  # that of the model, and that of a tokenizer of another
_MOST_FILES = 10_000
_kept: list[tuple[Origin, Any]] = []


def opened(source: str | Path) -> Origin:
    """The origin that `origin_of` gives, or gave to another part of this start, and what it has read since.

    A tuning asks for its model, its tokenizer and its weights at three places, which know no more of each other than
    the config. The last two origins are kept, and opened again only where their files have changed.

    Raises:
        ConfigError, ConvertError: as `origin_of`.
    """
    for place, (origin, state) in enumerate(_kept):
        if origin.source == str(source) and state == _state(origin.path):
            _kept.append(_kept.pop(place))
            return origin
    origin = origin_of(source)
    _kept.append((origin, _state(origin.path)))
    del _kept[:-_MOST]
    return origin


def _state(path: Path | None) -> Any:
    """What changes with the files of an origin: their places, sizes and times; of a folder two folders deep."""
    if path is None:
        return ()
    try:
        parts = [
            path.with_name(name) for name in part_names(path.name)
        ]  # of a GGUF file, which has one or several
        files = _inside(path, 2) if path.is_dir() else parts
        state = [(file, *_stamp(file)) for file in itertools.islice(files, _MOST_FILES + 1)]
    except OSError:
        return object()  # is like no other
    return state if len(state) <= _MOST_FILES else object()


def _inside(folder: Path, depth: int) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        yield entry
        if depth > 1 and entry.is_dir():
            yield from _inside(entry, depth - 1)


def _stamp(path: Path) -> tuple[int, ...]:
    state = path.stat()
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns
