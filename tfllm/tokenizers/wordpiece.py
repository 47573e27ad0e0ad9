"""WordPiece as BERT does it, on the `tokenizers` library."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from tfllm.tokenizers.added_token import AddedToken, written_names
from tfllm.tokenizers.bpe_vocab import check_ids
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.framing import framing_of
from tfllm.tokenizers.learnable import learnable_texts
from tfllm.tokenizers.library_tokenizer import LibraryTokenizer
from tfllm.tokenizers.opening import Opening
from tfllm.tokenizers.roles import encoder_roles
from tfllm.tokenizers.special_tokens import check_special_name
from tfllm.tokenizers.wordpiece_rules import BERT_RULES, WordPieceRules

if TYPE_CHECKING:
    from tfllm.tokenizers.graph.wordpiece import GraphWordPieceTokenizer


# BERT's special tokens, in its order, and the parts they play.
PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
_MOST_CHARACTERS = 1000  # as BERT's vocabularies: what is rarer is unknown
_FEWEST_CHARACTERS = 32


class WordPieceTokenizer(LibraryTokenizer):
    """BERT's tokenizer: normalized texts are split at white space and punctuation, and each word into the longest
    pieces, from the left; a word that cannot be split so is unknown.

    Texts cannot be had back exactly: decoding joins pieces by blanks, as the `tokenizers` library does.
    Usually made by `read_tokenizer`. Paper: Devlin et al. 2019, "BERT", section 3; Wu et al. 2016, section 4.1.

    Args:
        vocab: token to id; holes between ids are filled with unused tokens.
        special_tokens: name to id.
        bos_token: name of the token that begins a text, [CLS].
        eos_token: name of the token that ends it, [SEP].
        pad_token: name of the token that fills a row.
        other_roles: names by role; `unk_token` must be among them.
        rules: how texts become words.
        added_tokens: as in `Tokenizer`.
        **conventions: further arguments of `Tokenizer`.

    Raises:
        TokenizerError: two tokens share an id, there is no unknown token, or a special token's name is a word.

    Example:
        >>> names = {"bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]"}
        >>> special = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
        >>> tokenizer = WordPieceTokenizer(
        ...     {**special, "low": 4, "##er": 5},
        ...     special_tokens=special,
        ...     other_roles={"unk_token": "[UNK]"},
        ...     **names,
        ... )
        >>> tokenizer.encode("Lower, low"), tokenizer.decode([4, 5, 4])
        ([4, 5, 1, 4], 'lower low')
    """

    type = "wordpiece"

    def __init__(
        self,
        vocab: Mapping[str, int],
        *,
        special_tokens: Mapping[str, int],
        bos_token: str,
        eos_token: str,
        pad_token: str,
        other_roles: Mapping[str, str],
        rules: WordPieceRules = BERT_RULES,
        added_tokens: Sequence[AddedToken] = (),
        **conventions: Any,
    ):
        if "unk_token" not in other_roles:
            raise TokenizerError(
                "unk_token must be one of the special tokens, for words that WordPiece cannot split; name it in"
                " tokenizer_config.json"
            )
        for name in special_tokens:
            check_special_name(name)
        named = {token.content: token.id for token in added_tokens} | dict(special_tokens)
        self.vocab, self.rules = dict(vocab), rules
        whole = {**vocab, **named}
        check_ids(whole)
        names = written_names(whole, added_tokens, rules.normalizer().normalize_str)
        token_bytes, opening = _decoded(names, rules)
        self._whole, self._unknown = whole, other_roles["unk_token"]
        super().__init__(
            token_bytes,
            special_tokens=special_tokens,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            other_roles=other_roles,
            added_tokens=added_tokens,
            opening=opening,
            **conventions,
        )
        self._set_library()
        self._check_names()

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        vocab_size: int,
        lowercase: bool = True,
        min_frequency: int = 2,
        extra_special_tokens: Sequence[str] = (),
        frame: str = "bos_eos",
    ) -> WordPieceTokenizer:
        """Learn pieces from `texts`; the same texts give the same tokenizer.

        Its special tokens are [PAD], [UNK], [CLS], [SEP] and [MASK], ids 0 to 4. Every letter of the alphabet is a
        token at the start of a word and, where it can be, inside one; the alphabet is the 1,000 commonest characters,
        or fewer where they would take half of a small vocabulary. What is rarer is unknown.

        Args:
            texts: texts, kept in memory.
            vocab_size: ids in all. Fewer are learned where the texts have no further pair.
            lowercase: letters become small and lose their accents, as in BERT's uncased vocabularies.
            min_frequency: how often a pair must occur to be merged.
            extra_special_tokens: further names.
            frame: what stands around a text (see `framing_of`).

        Raises:
            TokenizerError: `vocab_size` has no room for special tokens and 32 characters.
        """
        special = list(dict.fromkeys([PAD, UNK, CLS, SEP, MASK, *extra_special_tokens]))
        least = len(special) + 4 * _FEWEST_CHARACTERS
        if vocab_size < least:
            raise TokenizerError(
                f"vocab_size={vocab_size} must be at least {least}: {len(special)} special tokens, and room for pieces;"
                " raise it"
            )
        rules = dataclasses.replace(BERT_RULES, lowercase=lowercase, strip_accents=lowercase)
        repaired = list(learnable_texts(texts))
        most = min(_MOST_CHARACTERS, (vocab_size - len(special)) // 4)
        # The library numbers what it meets inside words in an order that differs from call to call, and merges by
        # these numbers where pairs are equally frequent: so all of it is numbered beforehand.
        known = [*special, *_alphabet(repaired, rules, most)]
        library = tokenizers.Tokenizer(models.WordPiece(unk_token=UNK))
        library.normalizer = rules.normalizer()
        library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=known,
            limit_alphabet=0,
            continuing_subword_prefix=rules.subword_prefix,
            show_progress=False,
        )
        library.train_from_iterator(repaired, trainer)
        vocab = json.loads(library.to_str())["model"]["vocab"]
        return cls(
            vocab,
            special_tokens={name: vocab[name] for name in special},
            bos_token=CLS,
            eos_token=SEP,
            pad_token=PAD,
            other_roles={"unk_token": UNK, "mask_token": MASK, **encoder_roles("bos_eos", CLS, SEP)},
            rules=rules,
            framing=framing_of(frame, bos=vocab[CLS], eos=vocab[SEP]),
        )

    def normalized(self, text: str) -> str:  # noqa: D102
        return self.rules.normalizer().normalize_str(text)

    def in_graph(self) -> GraphWordPieceTokenizer:
        """Return the same tokenizer as TensorFlow operations."""
        from tfllm.tokenizers.graph.wordpiece import GraphWordPieceTokenizer

        return GraphWordPieceTokenizer(self.vocabulary, self._sought_names(), self.rules, self.vocab)

    def token_label(self, token_id: int) -> str:
        """Return the piece as the vocabulary writes it: `low`, `##er`."""
        self.decode_bytes([token_id])  # refuses what is no id
        return {i: token for token, i in self._whole.items()}.get(token_id, "")

    def _new_library(self) -> tokenizers.Tokenizer:
        # Names of added tokens are no words, unless the model has them. No word has a blank.
        vocab = {**self.vocab, self._unknown: self._whole[self._unknown]}
        holes = set(range(max(vocab.values()))) - set(vocab.values())
        return self._library_of({**vocab, **{f" {i}": i for i in holes}})

    def _library_of(self, vocab: Mapping[str, int]) -> tokenizers.Tokenizer:
        rules = self.rules
        model = models.WordPiece(
            vocab=dict(vocab),
            unk_token=self._unknown,
            max_input_chars_per_word=rules.max_word_length,
            continuing_subword_prefix=rules.subword_prefix,
        )
        library = tokenizers.Tokenizer(model)
        library.normalizer = rules.normalizer()
        library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        library.decoder = decoders.WordPiece(prefix=rules.subword_prefix, cleanup=rules.cleanup)
        return library

    def _tokenizer_json(self) -> dict[str, Any]:
        content = super()._tokenizer_json()
        beyond = [token.id for token in self.added_tokens if token.content not in self.vocab]
        in_order = beyond == list(range(len(self.vocab), len(self.vocab) + len(beyond)))
        # Others would number them otherwise if they were not in the vocabulary.
        content["model"]["vocab"] = self.vocab if in_order else self._whole
        content["added_tokens"] = [token.to_json() for token in self.added_tokens]
        return content

    def _check_names(self) -> None:
        library = self._library_of(self._whole)
        for token in self.added_tokens:
            found = library.encode(token.content, add_special_tokens=False).ids
            if token.special and token.id in found and token.id != self.unk_id:
                raise TokenizerError(
                    f"added token {token.content!r} must not be a word of the text; name it like '[CLS]', which is"
                    " split into several"
                )

    def _encoding_rules(self) -> Any:
        return [self.vocab, dataclasses.asdict(self.rules)]


def _alphabet(texts: Sequence[str], rules: WordPieceRules, most: int) -> list[str]:
    """The commonest characters of texts, and what they are inside words, for those that are not words by themselves."""
    normalizer, words = rules.normalizer(), pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    ordered = sorted(counts, key=lambda character: (-counts[character], character))
    common = sorted([character for character in ordered if not character.isspace()][:most])
    inside = [character for character in common if len(words.pre_tokenize_str(character + character)) == 1]
    return [*common, *(rules.subword_prefix + character for character in inside)]


def _decoded(names: Mapping[int, str], rules: WordPieceRules) -> tuple[list[bytes], Opening]:
    """The text of each id behind others, and at the start of a text."""
    decoder = decoders.WordPiece(prefix=rules.subword_prefix, cleanup=rules.cleanup)
    size = 1 + max(names)
    behind, start, is_hole = [b""] * size, [b""] * size, [True] * size
    for i, token in names.items():
        behind[i] = decoder.decode(["a", token])[1:].encode()
        start[i] = decoder.decode([token]).encode()
        is_hole[i] = False
    return behind, Opening(tuple(start), tuple(is_hole))
