"""A text cut where its sentences end."""

from __future__ import annotations

import itertools
import re

# Behind a mark that ends sentences and what closes quotations, before white space; behind a mark of scripts that write
# none; and behind a line end.
_END = re.compile(r"""(?<=[.!?])["'”’»)\]]*(?=\s)|(?<=[。！？])[”’」』）]*|(?<=\n)(?=[^\n])""")


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a text, in order: joined they are the text, and none is blank.

    A mark within a line, such as that of an abbreviation, ends a sentence too: what reads them needs parts, not
    grammar.
    """
    cuts = [0, *(match.end() for match in _END.finditer(text)), len(text)]
    parts = [text[start:stop] for start, stop in itertools.pairwise(cuts)]
    sentences: list[str] = []
    for part in parts:
        if sentences and not sentences[-1].strip():
            sentences[-1] += part
        elif part.strip() or not sentences:
            sentences.append(part)
        else:
            sentences[-1] += part
    return [sentence for sentence in sentences if sentence]
