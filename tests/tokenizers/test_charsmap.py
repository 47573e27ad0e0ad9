"""SentencePiece's tables of characters, also such as none would make."""

import base64
import time

import numpy as np
import pytest
from test_metaspace import charsmap

from tfllm.tokenizers import TokenizerError
from tfllm.tokenizers.charsmap import charsmap_entries


def table(units, texts=b"x\0"):
    content = np.array(units, "<u4").tobytes()
    return len(content).to_bytes(4, "little") + content + texts


def test_a_published_table():
    content = base64.b64decode(charsmap()["precompiled_charsmap"])
    found = charsmap_entries(content, 5)
    assert (found["ﬁ"], found["\u3000"], found["①"]) == ("fi", " ", "1")
    assert len(found) > 1000 and max(len(key.encode()) for key in found) == 5
    longer = charsmap_entries(content, 100)
    assert longer.keys() > found.keys() and all(longer[key] == value for key, value in found.items())


def circles(letters):
    """Each of the letters leads to where it stands itself."""
    units = np.zeros(512, np.int64)
    units[0] = 256 << 10
    for letter in letters:
        units[256 ^ letter] = letter << 10 | letter
    return table(units)


def test_a_table_that_leads_in_circles_ends():
    assert charsmap_entries(circles(b"a"), 5) == {}
    start = time.perf_counter()
    with pytest.raises(
        TokenizerError, match="precompiled_charsmap must be one of SentencePiece's tables, of at most"
    ):
        charsmap_entries(circles(range(1, 256)), 5)
    assert time.perf_counter() - start < 60


def one_leaf(letter, below):
    """A table of one key of one byte, whose value stands below."""
    units = np.zeros(512, np.int64)
    place = 256 ^ letter
    units[0], units[place] = 256 << 10, (place ^ below) << 10 | 1 << 8 | letter
    return table(units)


def test_damaged_tables_are_refused():
    assert charsmap_entries(one_leaf(0x61, below=1), 5) == {"a": "x"}
    for content in (
        b"",
        b"\1",
        table([]),
        one_leaf(0x61, below=600),
        one_leaf(0x61, below=0),
        one_leaf(0xC3, below=1),
    ):
        with pytest.raises(
            TokenizerError, match="precompiled_charsmap must be one of SentencePiece's tables"
        ):
            charsmap_entries(content, 5)
