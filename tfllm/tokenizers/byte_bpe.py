"""Byte-level byte-pair encoding, on the `tokenizers` library."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from tfllm.tokenizers.added_token import AddedToken, not_guessed, written_names
from tfllm.tokenizers.bpe_vocab import check_vocab, named_bytes, ordinary_bytes
from tfllm.tokenizers.byte_alphabet import BYTE_CHARACTERS, bytes_to_token
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.files.bpe_files import BytePairs, read_tokenizer_json, read_vocab_and_merges
from tfllm.tokenizers.framing import Framing
from tfllm.tokenizers.library_tokenizer import LibraryTokenizer
from tfllm.tokenizers.repair import repair_text
from tfllm.tokenizers.roles import choose_roles, three_roles
from tfllm.tokenizers.special_tokens import BOS, EOS, PAD, numbered_special_tokens
from tfllm.tokenizers.word_encoder import WordEncoder
from tfllm.tokenizers.word_split import GPT2, SPLITS, WordSplit

if TYPE_CHECKING:
    from tfllm.tokenizers.graph.byte_bpe import GraphByteBPETokenizer

_LARGE_TEXT = 100_000  # characters from which remembering words pays


class ByteBPETokenizer(LibraryTokenizer):
    """Byte-level BPE as GPT-2 does it: split into words by a regular expression, then merge bytes by rank inside a
    word. Bytes for which the vocabulary has no token are dropped, as the `tokenizers` library drops them.

    Usually made by `train`, `from_file` or `from_vocab_and_merges`. Paper: Radford et al. 2019, "Language
    Models are Unsupervised Multitask Learners", section 2.2.

    Args:
        vocab: token, written in GPT-2's byte alphabet, to id. The ids of `vocab` and `special_tokens`
            together are 0..V-1; a special token may stand in both, and holes are filled with unused tokens.
        merges: pairs of tokens, the first to be merged first.
        special_tokens: name to id.
        bos_token: name of the token that begins a document.
        eos_token: name of the token that ends a document.
        pad_token: name of the token that fills a row.
        split: how texts are split, one of `SPLITS`: gpt2, smollm, llama3, qwen2.
        ignore_merges: a word that is a token is that token, whatever its bytes merge to, as in Llama 3.
        add_prefix_space: a text that does not begin with a blank gets one; only with the split gpt2.
        nfc: texts are brought into Unicode's form NFC first, as in Qwen.
        **conventions: further arguments of `Tokenizer`.

    Raises:
        TokenizerError: a printable character or a merge's token is missing, two tokens share an id, a special token's
            name is that of an ordinary token, or the split is not known.

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
        add_prefix_space: bool = False,
        nfc: bool = False,
        added_tokens: Sequence[AddedToken] = (),
        **conventions: Any,
    ):
        self.split, self.ignore_merges = _split_called(split), ignore_merges
        self.add_prefix_space, self.nfc = add_prefix_space, nfc
        if add_prefix_space and self.split != GPT2:
            raise TokenizerError(
                f"add_prefix_space=True goes with split='gpt2' only, not {split!r}; set it to False"
            )
        named = {token.content: token.id for token in added_tokens} | dict(special_tokens)
        self.vocab = {**vocab, **named}
        self.merges = [(left, right) for left, right in merges]
        check_vocab(self.vocab, vocab, self.merges, special_tokens)
        token_bytes = [b""] * (1 + max(self.vocab.values()))
        written = written_names(self.vocab, added_tokens, _nfc if nfc else str)
        names = set(named.values())
        for i, token in written.items():
            token_bytes[i] = named_bytes(token) if i in names else ordinary_bytes(token)
        super().__init__(
            token_bytes,
            special_tokens=special_tokens,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            added_tokens=added_tokens,
            **conventions,
        )
        self._library = self._plain_library()
        self._check_names()
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
            bos_token: name of the token that begins a document; by default one of the names in use, such as
                `<|bos|>`, `<s>` or `<|endoftext|>`, that the file has. `eos_token` and `pad_token` likewise.
            eos_token: name of the token that ends a document.
            pad_token: name of the token that fills a row.

        Raises:
            TokenizerError: the file is missing, corrupt, or would not encode as this class does.
        """
        given = {"bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token}
        return cls.of_pairs(
            path, read_tokenizer_json(path), {k: v for k, v in given.items() if v is not None}
        )

    @classmethod
    def of_pairs(
        cls, path: str | Path, read: BytePairs, given: Mapping[str, str], **conventions: Any
    ) -> ByteBPETokenizer:
        """Make the tokenizer that a `tokenizer.json` describes.

        Args:
            path: the file, to be named in errors.
            read: what it says.
            given: names by role, as other files say.
            **conventions: further arguments of `Tokenizer`.

        Raises:
            TokenizerError: it would not encode as this class does.
        """
        if read.split is None:
            raise TokenizerError(
                f"{path}: pre_tokenizer must split texts by one of {', '.join(SPLITS)}; take another tokenizer"
            )
        whole = {**read.vocab, **{token.content: token.id for token in read.added_tokens}}
        special = {token.content: token.id for token in read.added_tokens if token.special}
        roles = not_guessed(choose_roles(path, given, whole, special), given, read.added_tokens)
        special |= {name: whole[name] for name in roles.values()}
        return cls(
            read.vocab,
            read.merges,
            special_tokens=special,
            added_tokens=read.added_tokens,
            split=read.split.name,
            ignore_merges=read.ignore_merges,
            add_prefix_space=read.add_prefix_space,
            nfc=read.nfc,
            framing=read.framing,
            **three_roles(roles),
            **conventions,
        )

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
        given = {"bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token}
        read = BytePairs(
            vocab, merges, (), Framing(), GPT2, ignore_merges=False, add_prefix_space=False, nfc=False
        )
        return cls.of_pairs(vocab_path, read, {k: v for k, v in given.items() if v is not None})

    def _encode_repaired(self, texts: list[str]) -> list[np.ndarray]:
        if sum(map(len, texts)) < _LARGE_TEXT:
            return self._encode_small(texts)
        if self._word_encoder is None:
            self._word_encoder = WordEncoder(self._bare_library(), self.split)
        if not self.cut_tokens:
            return self._word_encoder.encode(list(map(self._as_split, texts)))
        # Those that hold an added token, which are few, go through the library.
        names = {name for t in self.cut_tokens for name in (t.content, self.normalized(t.content))}
        holds = re.compile("|".join(map(re.escape, names))).search
        # NFC may make an added token out of what is none.
        normalized = [self.normalized(text) for text in texts]
        plain = [not holds(text) and not holds(form) for text, form in zip(texts, normalized, strict=True)]
        words = iter(
            self._word_encoder.encode([self._as_split(t) for t, p in zip(texts, plain, strict=True) if p])
        )
        other = iter(self._encode_small([t for t, p in zip(texts, plain, strict=True) if not p]))
        return [next(words) if is_plain else next(other) for is_plain in plain]

    def _encode_small(self, texts: list[str]) -> list[np.ndarray]:
        encodings = self._library.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def normalized(self, text: str) -> str:  # noqa: D102
        return self._library.normalizer.normalize_str(text) if self.nfc and not text.isascii() else text

    def _as_split(self, text: str) -> str:
        """The text as it is when it is split."""
        text = self.normalized(text)
        return f" {text}" if self.add_prefix_space and text and not text.startswith(" ") else text

    def _check_names(self) -> None:
        """Refuse special names that some text may become; only words that are tokens whole can be such."""
        if self.ignore_merges:
            for name in self.special_tokens:
                if self.special_ids.intersection(self._library.encode(name, add_special_tokens=False).ids):
                    raise TokenizerError(
                        f"special token {name!r} must not be a word of the text; name it like '<|bos|>', which is"
                        " split into several"
                    )

    def encode_words(self, words: Sequence[bytes]) -> list[list[int]]:
        """Merge each of `words` whole, without splitting it first: what becomes of one piece of a text."""
        library = self._bare_library()
        # A word may hold parts of characters, so it goes in written in the byte alphabet already.
        library.pre_tokenizer = None
        written = [bytes_to_token(word) for word in words]
        return [encoding.ids for encoding in library.encode_batch_fast(written, add_special_tokens=False)]

    def in_graph(self) -> GraphByteBPETokenizer:
        """Return the same tokenizer as TensorFlow operations."""
        from tfllm.tokenizers.graph.byte_bpe import GraphByteBPETokenizer

        return GraphByteBPETokenizer(self)

    def _encoding_rules(self) -> Any:
        how = [self.split.name, self.ignore_merges, self.add_prefix_space, self.nfc]
        return [self.vocab, self.merges, *how]

    def _new_library(self) -> tokenizers.Tokenizer:
        library = self._bare_library()
        if self.add_prefix_space:
            library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
        if self.nfc:
            library.normalizer = normalizers.NFC()
        return library

    def _bare_library(self) -> tokenizers.Tokenizer:
        """What is done to a text once it is ready to be split."""
        return _library_tokenizer(self.vocab, self.merges, self.split, self.ignore_merges)


def _nfc(text: str) -> str:
    return normalizers.NFC().normalize_str(text)


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
