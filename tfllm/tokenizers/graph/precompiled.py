"""SentencePiece's tables of characters inside a TensorFlow graph, as the `tokenizers` library applies them.

The library looks at grapheme clusters. One of fewer than six bytes becomes, as a whole, what stands in the table for
the shortest beginning of it that is there; else each of its characters becomes what stands there for that
(`Precompiled` in its `normalizers/precompiled.rs`). Which characters cluster is found by asking it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import tensorflow as tf
from tokenizers import normalizers

from tfllm.tokenizers.assigned import asked_about
from tfllm.tokenizers.charsmap import charsmap_entries
from tfllm.tokenizers.graph.constant import constant
from tfllm.tokenizers.graph.lookup import Lookup
from tfllm.tokenizers.graph.shift import shifted

_CLUSTER_BYTES = 6
# Stands between characters when the library is asked about all at once: it is in no cluster of fewer than six bytes.
_BETWEEN = "\U00020000"
# Bits of the class of a character.
_JOINS, _CONTROL, _PREPENDS, _LEADING, _VOWEL, _TRAILING, _SYLLABLE = (1 << i for i in range(7))


class GraphPrecompiled(tf.Module):
    """Normalizes texts by a table.

    Args:
        charsmap: The table, as SentencePiece stores it.

    Raises:
        TokenizerError: it is damaged.
    """

    def __init__(self, charsmap: bytes):
        super().__init__(name="precompiled")
        table = charsmap_entries(charsmap, _CLUSTER_BYTES - 1)
        self._longest = max((len(key) for key in table), default=1)
        self._keys = Lookup([key.encode() for key in table])
        values = [value.encode() for value in table.values()] or [b""]
        self._values = constant(np.array(values, dtype=object))
        starts, classes = _classes()
        self._starts, self._classes = constant(starts), constant(classes)

    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        """Normalize string [B], valid UTF-8."""
        characters = tf.strings.unicode_decode(texts, "UTF-8")
        points, row = characters.flat_values, characters.value_rowids()
        written = tf.strings.unicode_encode(points[:, None], "UTF-8")
        begins = ~self._clusters(points, row)
        cluster = tf.cumsum(tf.cast(begins, tf.int64)) - 1
        found, value = self._look_up(written)
        written_each = tf.where(found, value, written)
        first = tf.where(begins)[:, 0]
        whole = tf.strings.unsorted_segment_join(written, cluster, tf.size(first, tf.int64))
        short = tf.strings.length(whole) < _CLUSTER_BYTES
        found, value = tf.zeros_like(short), tf.zeros_like(whole)
        for length in range(1, min(self._longest, _CLUSTER_BYTES - 1) + 1):
            beginning = tf.strings.substr(whole, 0, length, unit="UTF8_CHAR")
            has_it, its = self._look_up(beginning)
            fits = short & has_it & ~found & (tf.strings.length(beginning, unit="UTF8_CHAR") == length)
            found, value = found | fits, tf.where(fits, its, value)
        found, value = tf.gather(found, cluster), tf.gather(value, cluster)
        result = tf.where(found, tf.where(begins, value, ""), written_each)
        return tf.strings.unsorted_segment_join(result, row, characters.nrows())

    def _look_up(self, texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return bool and string [N]: whether texts are in the table, and what stands there."""
        found, place = self._keys(texts)
        return found, tf.gather(self._values, place)

    def _clusters(self, points: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
        """Return bool [N]: whether each character is in one cluster with the one before it."""
        kind = tf.gather(self._classes, tf.searchsorted(self._starts, points, side="right") - 1)
        before = shifted(kind, 1, _CONTROL)

        def has(kind: tf.Tensor, bits: int) -> tf.Tensor:
            return tf.bitwise.bitwise_and(kind, bits) != 0

        joins = has(kind, _JOINS) & ~has(before, _CONTROL) | has(before, _PREPENDS) & ~has(kind, _CONTROL)
        joins |= (points == ord("\n")) & (shifted(points, 1, 0) == ord("\r"))
        joins |= has(before, _LEADING) & has(kind, _LEADING | _VOWEL | _SYLLABLE)
        joins |= has(before, _VOWEL) & has(kind, _VOWEL | _TRAILING)
        joins |= has(before, _TRAILING) & has(kind, _TRAILING)
        return joins & (shifted(row, 1, -1) == row)


def _everything() -> bytes:
    """A table in which every character of up to three bytes becomes an X."""
    nodes: dict[bytes, int] = {b"": 0}  # to the block of 256 units in which the letters behind it stand
    leaves = []
    for point in (*range(1, 0xD800), *range(0xE000, 0x10000)):
        name = chr(point).encode()
        leaves.append(name)
        for length in range(1, len(name)):
            nodes.setdefault(name[:length], len(nodes))
    units = np.zeros((len(nodes) + 2) * 256, np.uint32)
    base = {name: (block + 1) * 256 for name, block in nodes.items()}
    value = (len(nodes) + 1) * 256  # where all have their value, which is 0
    units[value] = 1 << 31

    def place(name: bytes, to: int, leaf: int) -> None:
        at = base[name[:-1]] ^ name[-1]
        units[at] = (at ^ to) << 10 | leaf << 8 | name[-1]

    units[0] = base[b""] << 10
    for name in nodes:
        if name:
            place(name, base[name], 0)
    for name in leaves:
        place(name, value, 1)
    return (4 * len(units)).to_bytes(4, "little") + units.tobytes() + b"X\0"


@cache
def _classes() -> tuple[np.ndarray, np.ndarray]:
    """Runs of equal class: int32 [R] first characters, ascending, and int32 [R] bits."""
    normalizer = normalizers.Precompiled(_everything())
    points = np.array(asked_about(), np.int32)
    characters = [chr(point) for point in points if chr(point) != _BETWEEN]

    def clusters(before: str, behind: str) -> np.ndarray:
        """Which of them become one X with what stands around them."""
        texts = (before + character + behind for character in characters)
        answers = normalizer.normalize_str(_BETWEEN.join(texts)).split(_BETWEEN)
        return np.array([answer == "X" for answer in answers])

    kinds = np.zeros(len(points), np.int32)
    # Clusters of characters of four bytes are too long to be seen, and to be of consequence, whatever is behind.
    short = (points > 0) & (points < 0x10000)
    other = points != ord(_BETWEEN)
    joins = clusters("a", "")
    kinds[other] |= _JOINS * joins
    # What joins the character before it is no control character; asked about, it joins `_BETWEEN`.
    breaks = ~clusters("", "\u0301") & ~joins
    kinds[other & short] |= (_CONTROL * breaks | _PREPENDS * clusters("", "a"))[short[other]]
    ranges: Mapping[int, tuple[tuple[int, int], ...]] = {
        _LEADING: ((0x1100, 0x115F), (0xA960, 0xA97C)),
        _VOWEL: ((0x1160, 0x11A7), (0xD7B0, 0xD7C6)),
        _TRAILING: ((0x11A8, 0x11FF), (0xD7CB, 0xD7FB)),
        _SYLLABLE: ((0xAC00, 0xD7A3),),
    }
    for bit, runs in ranges.items():
        for low, high in runs:
            kinds[(points >= low) & (points <= high)] |= bit
    syllable = (kinds & _SYLLABLE) != 0
    kinds[syllable] |= np.where((points[syllable] - 0xAC00) % 28 == 0, _VOWEL, _TRAILING)
    kinds[points == 0] |= _CONTROL
    changes = np.flatnonzero(np.diff(kinds, prepend=-1))
    return points[changes], kinds[changes]
