"""Readable labels for tokens, for plots and tables."""

_VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}


def bytes_label(token: bytes) -> str:
    r"""Return `token` as one printable line: `␣the`, `⏎`, `\xF0` for a stray part of a character."""
    # surrogateescape maps each stray byte b to U+DC00 + b, which marks it until the line below spells it out.
    return "".join(_character_label(c) for c in token.decode("utf-8", errors="surrogateescape"))


def _character_label(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02X}"
    if character in _VISIBLE:
        return _VISIBLE[character]
    if character.isprintable():
        return character
    return f"\\x{code:02X}" if code < 0x80 else f"\\u{code:04X}"
