"""How byte-level BPE makes tokens of a text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import tokenizers
from tokenizers import decoders, models

from tfllm.tokenizers.word_split import GPT2, WordSplit


@dataclasses.dataclass(frozen=True)
class ByteBPERules:
    """How texts become words, and words tokens.

    Args:
        vocab: token, written in GPT-2's byte alphabet, to id; names of added tokens stand there as they are.
        merges: pairs of tokens, the first to be merged first.
        split: how texts are split into words.
        ignore_merges: a word that is a token is that token, whatever its bytes merge to.
        add_prefix_space: a text that does not begin with a blank gets one.
        nfc: texts are brought into Unicode's form NFC first.
    """

    vocab: Mapping[str, int]
    merges: Sequence[tuple[str, str]]
    split: WordSplit = GPT2
    ignore_merges: bool = False
    add_prefix_space: bool = False
    nfc: bool = False

    def library(self) -> tokenizers.Tokenizer:
        """What is done to a text once it is ready to be split, in the `tokenizers` library."""
        model = models.BPE(vocab=dict(self.vocab), merges=list(self.merges), ignore_merges=self.ignore_merges)
        library = tokenizers.Tokenizer(model)
        library.pre_tokenizer = self.split.pre_tokenizer()
        library.decoder = decoders.ByteLevel()
        return library
