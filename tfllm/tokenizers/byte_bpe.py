"""Byte-level byte-pair encoding, on the `tokenizers` library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, trainers

from tfllm.tokenizers.bpe_files import read_tokenizer_json, read_vocab_and_merges
from tfllm.tokenizers.bpe_vocab import check_vocab, ordinary_bytes
from tfllm.tokenizers.byte_alphabet import BYTE_CHARACTERS, bytes_to_token
from tfllm.tokenizers.repair import repair_text
from tfllm.tokenizers.special_tokens import BOS, EOS, PAD, numbered_special_tokens
from tfllm.tokenizers.tokenizer import Tokenizer, TokenizerError
from tfllm.tokenizers.word_encoder import WordEncoder
from tfllm.tokenizers.word_split import SPLITS, WordSplit

if TYPE_CHECKING:
    from tfllm.tokenizers.graph_byte_bpe import GraphByteBPETokenizer

TOKENIZER_FILE = "tokenizer.json"
# Where a file does not say which special token plays a part, GPT-2's plays all three.
END_OF_TEXT = "<|endoftext|>"
_LARGE_TEXT = 100_000  # characters from which remembering words pays


class ByteBPETokenizer(Tokenizer):
    """Byte-level BPE as GPT-2 does it: split into words by a regular expression, then merge bytes by rank inside a
    word. Bytes for which the vocabulary has no token are dropped, as the `tokenizers` library drops them.

    Usually made by `train`, `from_file` or `from_vocab_and_merges`. Paper: Radford et al. 2019, "Language
    Models are Unsupervised Multitask Learners", section 2.2.

    Args:
        vocab: token, written in GPT-2's byte alphabet, to id. The ids of `vocab` and `special_tokens`
            together must be 0..V-1; a special token may stand in both.
        merges: pairs of tokens, the first to be merged first.
        special_tokens: name to id.
        bos_token: name of the token that begins a document.
        eos_token: name of the token that ends a document.
        pad_token: name of the token that fills a row.
        split: how texts are split, one of `SPLITS`: gpt2, smollm, llama3, qwen2.
        ignore_merges: a word that is a token is that token, whatever its bytes merge to, as in Llama 3.

    Raises:
        TokenizerError: a printable character, a merge's token or an id is missing, a special token's name is that of an
            ordinary token, or the split is not known.

    Example:
        >>> tokenizer = ByteBPETokenizer.train(["low lower lowest"] * 10, vocab_size=262)
        >>> tokenizer.decode(tokenizer.encode("lower")), len(tokenizer.encode("low"))
        ('lower', 1)
    """

    type = "byte_bpe"

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        *,
        special_tokens: Mapping[str, int],
        bos_token: str,
        eos_token: str,
        pad_token: str,
        split: str = "gpt2",
        ignore_merges: bool = False,
    ):
        self.split, self.ignore_merges = _split_called(split), ignore_merges
        self.vocab = {**vocab, **special_tokens}
        self.merges = [(left, right) for left, right in merges]
        check_vocab(self.vocab, vocab, self.merges, special_tokens)
        token_bytes = [b""] * len(self.vocab)
        for token, i in self.vocab.items():
            token_bytes[i] = token.encode() if token in special_tokens else ordinary_bytes(token)
        super().__init__(
            token_bytes,
            special_tokens=special_tokens,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
        )
        # It knows no added tokens, so that special names in a text stay text.
        self._library = self._new_library()
        self._word_encoder: WordEncoder | None = None  # made for the first large text

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        vocab_size: int,
        min_frequency: int = 2,
        bos_token: str = BOS,
        eos_token: str = EOS,
        pad_token: str = PAD,
        extra_special_tokens: Sequence[str] = (),
        split: str = "gpt2",
    ) -> ByteBPETokenizer:
        """Learn merges from `texts`; the same texts in the same order give the same tokenizer.

        Args:
            texts: texts, read once.
            vocab_size: ids in all: 256 bytes, merges, special tokens. Fewer are learned, and none padded,
                where the texts have no further pair that occurs `min_frequency` times.
            min_frequency: how often a pair must occur to be merged.
            bos_token: name of the token that begins a document.
            eos_token: name of the token that ends a document.
            pad_token: name of the token that fills a row.
            extra_special_tokens: further names, such as those of a chat template. Special ids are the
                highest.
            split: how texts are split, one of `SPLITS`.

        Raises:
            TokenizerError: `vocab_size` is below 256 + the special tokens, a special name was learned from
                the text, or the split is not known.
        """
        num_special = len(numbered_special_tokens(0, bos_token, eos_token, pad_token, extra_special_tokens))
        if vocab_size < 256 + num_special:
            raise TokenizerError(
                f"vocab_size={vocab_size} must be at least {256 + num_special}: 256 bytes and {num_special}"
                f" special tokens; raise it, or use ByteTokenizer"
            )
        library = _library_tokenizer({}, [], _split_called(split))
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - num_special,
            min_frequency=min_frequency,
            initial_alphabet=BYTE_CHARACTERS,
            show_progress=False,
        )
        library.train_from_iterator(map(repair_text, texts), trainer)
        vocab, merges = _vocab_and_merges(library)
        special = numbered_special_tokens(len(vocab), bos_token, eos_token, pad_token, extra_special_tokens)
        return cls(
            vocab,
            merges,
            special_tokens=special,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            split=split,
        )

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        pad_token: str | None = None,
    ) -> ByteBPETokenizer:
        """Read a `tokenizer.json` of the `tokenizers` library that holds a byte-level BPE with one of `SPLITS`.

        Padding, truncation and what a post-processor adds are left aside: `encode` gives the bare ids of the
        text.

        Args:
            path: the file.
            bos_token: name of the token that begins a document; by default `<|bos|>`, else `<|endoftext|>`,
                whichever the file has. `eos_token` and `pad_token` likewise.
            eos_token: name of the token that ends a document.
            pad_token: name of the token that fills a row.

        Raises:
            TokenizerError: the file is missing, corrupt, or would not encode as this class does.
        """
        read = read_tokenizer_json(path)
        special = dict(read.special_tokens)
        roles = _roles(path, read.vocab, special, bos_token, eos_token, pad_token)
        how: dict[str, Any] = {"split": read.split.name, "ignore_merges": read.ignore_merges, **roles}
        return cls(read.vocab, read.merges, special_tokens=special, **how)

    @classmethod
    def from_vocab_and_merges(
        cls,
        vocab_path: str | Path,
        merges_path: str | Path,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        pad_token: str | None = None,
    ) -> ByteBPETokenizer:
        """Read GPT-2's own pair of files, `vocab.json` (or `encoder.json`) and `merges.txt` (or `vocab.bpe`).

        Args:
            vocab_path: a JSON object from token to id.
            merges_path: a pair of tokens a line, the first to be merged first.
            bos_token: as in `from_file`; the name must stand in the vocabulary.
            eos_token: likewise.
            pad_token: likewise.

        Raises:
            TokenizerError: a file is missing or corrupt.
        """
        vocab, merges = read_vocab_and_merges(vocab_path, merges_path)
        special: dict[str, int] = {}
        roles = _roles(vocab_path, vocab, special, bos_token, eos_token, pad_token)
        return cls(vocab, merges, special_tokens=special, **roles)

    @classmethod
    def load(cls, folder: str | Path, saved_config: Mapping[str, Any]) -> ByteBPETokenizer:
        """Read back what `save` wrote."""
        roles = {role: saved_config[role] for role in ("bos_token", "eos_token", "pad_token")}
        tokenizer = cls.from_file(Path(folder) / TOKENIZER_FILE, **roles)
        if tokenizer.special_tokens != saved_config["special_tokens"]:
            raise TokenizerError(
                f"{folder}: special_tokens={saved_config['special_tokens']} must be those of"
                f" {TOKENIZER_FILE}, {tokenizer.special_tokens}; the two files are not from one save, write"
                " the folder again"
            )
        return tokenizer

    def _encode_repaired(self, texts: list[str]) -> list[np.ndarray]:
        if sum(map(len, texts)) >= _LARGE_TEXT:
            if self._word_encoder is None:
                self._word_encoder = WordEncoder(self._new_library(), self.split)
            return self._word_encoder.encode(texts)
        encodings = self._library.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def encode_words(self, words: Sequence[bytes]) -> list[list[int]]:
        """Merge each of `words` whole, without splitting it first: what becomes of one piece of a text."""
        library = self._new_library()
        # A word may hold parts of characters, so it goes in written in the byte alphabet already.
        library.pre_tokenizer = None
        written = [bytes_to_token(word) for word in words]
        return [encoding.ids for encoding in library.encode_batch_fast(written, add_special_tokens=False)]

    def in_graph(self) -> GraphByteBPETokenizer:
        """Return the same tokenizer as TensorFlow operations."""
        from tfllm.tokenizers.graph_byte_bpe import GraphByteBPETokenizer

        return GraphByteBPETokenizer(self)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json`, which `tokenizers.Tokenizer.from_file` reads, and `tokenizer_config.json`.

        The library by itself turns special names inside a text into special ids; set its
        `encode_special_tokens` to get the ids of `encode` for such texts too.
        """
        super().save(folder)
        library = self._new_library()
        names = sorted(self.special_tokens, key=lambda name: self.special_tokens[name])
        library.add_special_tokens(
            [tokenizers.AddedToken(name, special=True, normalized=False) for name in names]
        )
        library.save(str(Path(folder) / TOKENIZER_FILE))

    def _encoding_rules(self) -> Any:
        rules = [self.vocab, self.merges]
        plain = self.split.name == "gpt2" and not self.ignore_merges
        return rules if plain else [*rules, self.split.name, self.ignore_merges]

    def _new_library(self) -> tokenizers.Tokenizer:
        return _library_tokenizer(self.vocab, self.merges, self.split, self.ignore_merges)


def _split_called(name: str) -> WordSplit:
    if name not in SPLITS:
        raise TokenizerError(f"split={name!r} is not known; use one of {', '.join(SPLITS)}")
    return SPLITS[name]


def _library_tokenizer(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    split: WordSplit,
    ignore_merges: bool = False,
) -> tokenizers.Tokenizer:
    model = models.BPE(vocab=dict(vocab), merges=list(merges), ignore_merges=ignore_merges)
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer = split.pre_tokenizer()
    library.decoder = decoders.ByteLevel()
    return library


def _vocab_and_merges(library: tokenizers.Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(library.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def _roles(
    path: str | Path,
    vocab: Mapping[str, int],
    special: dict[str, int],
    bos_token: str | None,
    eos_token: str | None,
    pad_token: str | None,
) -> dict[str, Any]:
    """Choose the names of the three roles, and move those that are only in `vocab` into `special`."""
    roles = {}
    for role, given, usual in (
        ("bos_token", bos_token, BOS),
        ("eos_token", eos_token, EOS),
        ("pad_token", pad_token, PAD),
    ):
        names = [usual, END_OF_TEXT] if given is None else [given]
        known = [name for name in names if name in special or name in vocab]
        if not known:
            raise TokenizerError(
                f"{path}: {role}={' or '.join(map(repr, names))} must be in the vocabulary; pass {role}= one"
                f" of its special tokens: {sorted(special)}"
            )
        roles[role] = known[0]
        special.setdefault(known[0], vocab.get(known[0], -1))
    return roles
