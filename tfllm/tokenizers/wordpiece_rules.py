"""How WordPiece prepares texts and cuts words, as BERT does it."""

from __future__ import annotations

import dataclasses
from typing import Any

from tokenizers import normalizers


@dataclasses.dataclass(frozen=True)
class WordPieceRules:
    """How texts become words, and words pieces.

    Args:
        clean_text: control characters are dropped, and white space becomes blanks.
        handle_chinese_chars: each CJK ideograph is a word.
        strip_accents: nonspacing marks are dropped.
        lowercase: letters become small.
        subword_prefix: what the pieces of a word but the first begin with.
        max_word_length: characters; a longer word is unknown.
        cleanup: decoding takes the blanks away before punctuation and in contractions.
    """

    clean_text: bool = True
    handle_chinese_chars: bool = True
    strip_accents: bool = True
    lowercase: bool = True
    subword_prefix: str = "##"
    max_word_length: int = 100
    cleanup: bool = True

    def normalizer(self, **changed: Any) -> Any:
        """The same as a normalizer of the library; some steps may be switched."""
        steps = dataclasses.replace(self, **changed)
        return normalizers.BertNormalizer(
            clean_text=steps.clean_text,
            handle_chinese_chars=steps.handle_chinese_chars,
            strip_accents=steps.strip_accents,
            lowercase=steps.lowercase,
        )


BERT_RULES = WordPieceRules()
