"""Unicode's normal forms inside a TensorFlow graph, by the version of Unicode that the `tokenizers` library has."""

from __future__ import annotations

from functools import cache

import tensorflow as tf
import tensorflow_text
from tokenizers import normalizers

from tfllm.tokenizers.assigned import asked_about
from tfllm.tokenizers.graph.cut import character_class, marked_pieces
from tfllm.tokenizers.graph.text import repair

# Of all marks those that sort first and last: U+0338 before, and U+0345 behind, any other that is not of its class.
_FIRST_MARK, _LAST_MARK = "\u0338", "\u0345"


class NormalForm(tf.Module):
    """Normalizes texts as the library does.

    TensorFlow Text follows a newer Unicode than the library, to which younger characters are unassigned: they
    neither decompose nor compose nor change places. So a text is taken apart at these, and normalized between them.

    Args:
        form: NFC, NFD, NFKC or NFKD.
    """

    def __init__(self, form: str):
        super().__init__(name=form.lower())
        self._form = form
        with tf.init_scope():
            younger = _younger_characters("NFKD" if "K" in form else "NFD")
        self._pattern = f"({character_class(younger)})" if younger else None

    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        """Normalize string [B], which is repaired first."""
        texts = repair(texts)
        if self._pattern is None:
            return tensorflow_text.normalize_utf8(texts, self._form)
        pieces = marked_pieces(texts, self._pattern)
        parts = pieces.flat_values
        known = tensorflow_text.normalize_utf8(parts, self._form)
        place = tf.range(tf.size(parts, tf.int64)) - tf.gather(pieces.row_starts(), pieces.value_rowids())
        parts = tf.where(place % 2 == 1, parts, known)
        return tf.strings.unsorted_segment_join(parts, pieces.value_rowids(), pieces.nrows())


@cache
def _younger_characters(form: str) -> tuple[int, ...]:
    """The code points that TensorFlow Text changes or moves in NFD or NFKD, and the library does not, ascending."""
    points = asked_about()
    library, younger = getattr(normalizers, form)(), set()
    for before, behind in (("", ""), ("a" + _LAST_MARK, ""), ("a", _FIRST_MARK)):
        texts = [f"{before}{chr(i)}{behind}" for i in points]
        theirs = tensorflow_text.normalize_utf8(tf.constant([text.encode() for text in texts]), form).numpy()
        for point, text, their in zip(points, texts, theirs, strict=True):
            if library.normalize_str(text).encode() != their:
                younger.add(point)
    if form == "NFKD":  # what is decomposed only there may come to characters that are not younger
        return tuple(sorted(younger | set(_younger_characters("NFD"))))
    # What a younger character decomposes to must not be composed either: its first part is as young.
    decomposed = tensorflow_text.normalize_utf8([chr(i) for i in sorted(younger)], form).numpy()
    return tuple(sorted(younger | {ord(text.decode()[0]) for text in decomposed}))
