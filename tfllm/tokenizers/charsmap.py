"""SentencePiece's tables of what characters become, as its models and a `tokenizer.json` hold them."""

from __future__ import annotations

import numpy as np

from tfllm.tokenizers.errors import TokenizerError

# Places in its tree, and bytes of texts: SentencePiece's nmt_nfkc, read whole, has 262,841 and 668,896.
_MOST_PLACES, _MOST_BYTES = 1 << 20, 1 << 24


def charsmap_parts(charsmap: bytes) -> tuple[np.ndarray, bytes]:
    """The two parts of a table: a double array (darts-clone) of keys, and the texts that their values point to.

    Returns:
        uint32 [U], and texts in UTF-8, each with a zero behind it.

    Raises:
        ValueError: these are no two such parts.
    """
    size = int.from_bytes(charsmap[:4], "little")
    units, texts = charsmap[4 : 4 + size], charsmap[4 + size :]
    if size == 0 or size % 4 or len(units) < size:
        raise ValueError(f"{len(charsmap)} bytes with an array of {size}")
    texts.decode()
    return np.frombuffer(units, "<u4"), texts


def charsmap_entries(charsmap: bytes, longest: int) -> dict[str, str]:
    """What stands in a table, by key.

    Args:
        charsmap: The table.
        longest: Bytes of a key; those that are longer are left out.

    Raises:
        TokenizerError: the table is damaged, or holds more than a table of characters does.
    """
    try:
        return _entries(charsmap, longest)
    except (IndexError, ValueError) as error:
        if isinstance(error, TokenizerError):
            raise
        raise TokenizerError(
            f"precompiled_charsmap must be one of SentencePiece's tables ({error}); download the tokenizer again"
        ) from None


def _entries(charsmap: bytes, longest: int) -> dict[str, str]:
    array, texts = charsmap_parts(charsmap)
    units = array.astype(np.int64)
    labels = units & (1 << 31 | 0xFF)
    found: dict[str, str] = {}
    letters = np.arange(1, 256)
    todo = [(b"", int(_offset(units[0])))]
    num_places = num_bytes = 0
    while todo:
        key, base = todo.pop()
        places = base ^ letters
        places = places[places < len(units)]
        for place in places[labels[places] == (places ^ base)]:
            unit = units[place]
            name, below = key + bytes([int(place) ^ base]), int(place ^ _offset(unit))
            num_places += 1
            if unit >> 8 & 1:
                start = int(units[below]) & 0x7FFFFFFF
                text = texts[start : texts.index(b"\0", start)]
                num_bytes += len(text)
                found[name.decode()] = text.decode()
            if num_places > _MOST_PLACES or num_bytes > _MOST_BYTES:
                raise TokenizerError(
                    f"precompiled_charsmap must be one of SentencePiece's tables, of at most {_MOST_PLACES} places and"
                    f" {_MOST_BYTES} bytes of texts; download the tokenizer again"
                )
            if len(name) < longest:  # what is damaged may lead in a circle
                todo.append((name, below))
    return found


def _offset(unit: np.int64) -> np.int64:
    return (unit >> 10) << ((unit & 1 << 9) >> 6)
