"""Byte-level byte-pair encoding, on the `tokenizers` library."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
from tokenizers import normalizers, pre_tokenizers, trainers

from tfllm.tokenizers.added_token import AddedToken, written_names
from tfllm.tokenizers.bpe_vocab import check_vocab, named_bytes, ordinary_bytes
from tfllm.tokenizers.byte_alphabet import BYTE_CHARACTERS, bytes_to_token
from tfllm.tokenizers.byte_bpe_rules import ByteBPERules
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.framing import framing_of
from tfllm.tokenizers.learnable import learnable_texts
from tfllm.tokenizers.library_tokenizer import LibraryTokenizer
from tfllm.tokenizers.roles import encoder_roles
from tfllm.tokenizers.special_tokens import BOS, EOS, PAD, numbered_special_tokens
from tfllm.tokenizers.word_encoder import WordEncoder
from tfllm.tokenizers.word_split import GPT2, SPLITS, WordSplit

if TYPE_CHECKING:
    from tfllm.tokenizers.graph.byte_bpe import GraphByteBPETokenizer

_LARGE_TEXT = 100_000  # characters from which remembering words pays


class ByteBPETokenizer(LibraryTokenizer):
    """Byte-level BPE as GPT-2 does it: split into words by a regular expression, then merge bytes by rank inside a
    word. Bytes for which the vocabulary has no token are dropped, as the `tokenizers` library drops them.

    Usually made by `train`, `read_tokenizer` or `read_byte_bpe`. Paper: Radford et al. 2019, "Language
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
        way = _split_called(split)
        if add_prefix_space and way != GPT2:
            raise TokenizerError(
                f"add_prefix_space=True goes with split='gpt2' only, not {split!r}; set it to False"
            )
        named = {token.content: token.id for token in added_tokens} | dict(special_tokens)
        self.vocab = {**vocab, **named}
        self.merges = [(left, right) for left, right in merges]
        self.rules = ByteBPERules(self.vocab, self.merges, way, ignore_merges, add_prefix_space, nfc)
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
        self._set_library()
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
        other_roles: Mapping[str, str] | None = None,
        split: str = "gpt2",
        frame: str = "bos",
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
            other_roles: names of further special tokens, by what they are for, such as `mask_token`.
            split: how texts are split, one of `SPLITS`.
            frame: what stands around a text (see `framing_of`); with `bos_eos` these tokens are also its CLS and SEP.

        Raises:
            TokenizerError: `vocab_size` is below 256 + the special tokens, a special name was learned from
                the text, or the split is not known.
        """
        others = {**dict(other_roles or {}), **encoder_roles(frame, bos_token, eos_token)}
        extra_special_tokens = [*extra_special_tokens, *others.values()]
        num_special = len(numbered_special_tokens(0, bos_token, eos_token, pad_token, extra_special_tokens))
        if vocab_size < 256 + num_special:
            raise TokenizerError(
                f"vocab_size={vocab_size} must be at least {256 + num_special}: 256 bytes and {num_special}"
                f" special tokens; raise it, or use ByteTokenizer"
            )
        library = ByteBPERules({}, [], _split_called(split)).library()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - num_special,
            min_frequency=min_frequency,
            initial_alphabet=BYTE_CHARACTERS,
            show_progress=False,
        )
        library.train_from_iterator(learnable_texts(texts), trainer)
        vocab, merges = _vocab_and_merges(library)
        special = numbered_special_tokens(len(vocab), bos_token, eos_token, pad_token, extra_special_tokens)
        return cls(
            vocab,
            merges,
            special_tokens=special,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            other_roles=others,
            split=split,
            framing=framing_of(frame, bos=special[bos_token], eos=special[eos_token]),
        )

    def _encode_repaired(self, texts: list[str]) -> list[np.ndarray]:
        if sum(map(len, texts)) < _LARGE_TEXT:
            return super()._encode_repaired(texts)
        if self._word_encoder is None:
            self._word_encoder = WordEncoder(self.rules.library(), self.rules.split)
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
        other = iter(super()._encode_repaired([t for t, p in zip(texts, plain, strict=True) if not p]))
        return [next(words) if is_plain else next(other) for is_plain in plain]

    def normalized(self, text: str) -> str:  # noqa: D102
        return self._library.normalizer.normalize_str(text) if self.rules.nfc and not text.isascii() else text

    def _as_split(self, text: str) -> str:
        """The text as it is when it is split."""
        text = self.normalized(text)
        return f" {text}" if self.rules.add_prefix_space and text and not text.startswith(" ") else text

    def _check_names(self) -> None:
        """Refuse special names that some text may become; only words that are tokens whole can be such."""
        if self.rules.ignore_merges:
            for name in self.special_tokens:
                if self.special_ids.intersection(self._library.encode(name, add_special_tokens=False).ids):
                    raise TokenizerError(
                        f"special token {name!r} must not be a word of the text; name it like '<|bos|>', which is"
                        " split into several"
                    )

    def _whole_ids(self) -> list[int]:
        """The tokens that their own bytes merge to; special ones do not, and odd orders of merges have more such."""
        library = self.rules.library()
        # A token may hold parts of characters, so it goes in written in the byte alphabet already, as one word.
        library.pre_tokenizer = None
        written = [bytes_to_token(token) for token in self.token_bytes]
        encodings = library.encode_batch_fast(written, add_special_tokens=False)
        return [i for i, encoding in enumerate(encodings) if encoding.ids == [i]]

    def in_graph(self) -> GraphByteBPETokenizer:
        """Return the same tokenizer as TensorFlow operations."""
        from tfllm.tokenizers.graph.byte_bpe import GraphByteBPETokenizer

        names, whole = self._sought_names(), self._whole_ids()
        return GraphByteBPETokenizer(self.vocabulary, names, self.rules, whole)

    def _encoding_rules(self) -> Any:
        rules = self.rules
        how = [rules.split.name, rules.ignore_merges, rules.add_prefix_space, rules.nfc]
        return [self.vocab, self.merges, *how]

    def _new_library(self) -> tokenizers.Tokenizer:
        library = self.rules.library()
        if self.rules.add_prefix_space:
            library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
        if self.rules.nfc:
            library.normalizer = normalizers.NFC()
        return library


def _nfc(text: str) -> str:
    return normalizers.NFC().normalize_str(text)


def _split_called(name: str) -> WordSplit:
    if name not in SPLITS:
        raise TokenizerError(f"split={name!r} is not known; use one of {', '.join(SPLITS)}")
    return SPLITS[name]


def _vocab_and_merges(library: tokenizers.Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(library.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]
