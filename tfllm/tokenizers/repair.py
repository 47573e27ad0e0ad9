"""Repair of text that is not valid Unicode: the damage becomes U+FFFD, visibly, and nothing else changes."""

import re

_SURROGATES = re.compile("[\ud800-\udfff]")


def repair_text(text: str | bytes) -> str:
    """Return `text` as valid Unicode.

    Bytes are read as UTF-8; each maximal ill-formed part becomes one U+FFFD, as the Unicode standard
    recommends (section 3.9, "U+FFFD Substitution of Maximal Subparts") and as `tf.strings.unicode_transcode`
    does. Each lone surrogate of a `str` becomes one U+FFFD too, since UTF-8 cannot hold it. Raises TypeError
    for anything but str and bytes.

    >>> repair_text(b"a\\xf0\\x9f\\x98b")
    'a\ufffdb'
    """
    if isinstance(text, bytes):
        return text.decode("utf-8", errors="replace")
    if not isinstance(text, str):
        raise TypeError(f"a text must be str or bytes, not {type(text).__name__}")
    try:
        text.encode()  # far quicker than a search for surrogates, which almost no text has
    except UnicodeEncodeError:
        return _SURROGATES.sub("\ufffd", text)
    return text
