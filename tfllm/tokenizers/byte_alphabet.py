"""GPT-2's alphabet: a printable character for each byte, in which byte-level vocabularies are written."""

from __future__ import annotations


def _byte_characters() -> list[str]:
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    moved = [b for b in range(256) if b not in printable]
    characters = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(moved)}
    return [characters[b] for b in range(256)]


# Index by byte. The rule is that of bytes_to_unicode in GPT-2's encoder.py.
BYTE_CHARACTERS = _byte_characters()
_BYTE_OF = {ord(c): b for b, c in enumerate(BYTE_CHARACTERS)}
# To the character of the same byte in Latin-1, and what is none of the alphabet to one that Latin-1 lacks.
_LATIN_1 = dict.fromkeys(range(256), "\uffff") | {code: chr(byte) for code, byte in _BYTE_OF.items()}


def token_to_bytes(token: str) -> bytes:
    """Return the bytes a vocabulary entry stands for; KeyError if a character is outside the alphabet."""
    try:
        return token.translate(_LATIN_1).encode("latin-1")
    except UnicodeEncodeError:
        return bytes(_BYTE_OF[ord(c)] for c in token)


def bytes_to_token(text: bytes) -> str:
    """Return the vocabulary entry that stands for `text`."""
    return "".join(BYTE_CHARACTERS[b] for b in text)
