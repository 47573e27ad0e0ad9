"""WordPiece tokenizers of checkpoints: from `tokenizer.json`, and from the tokens of `vocab.txt`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfllm.tokenizers.added_token import AddedToken, not_guessed
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.framing import Framing, read_framing
from tfllm.tokenizers.roles import choose_roles, three_roles
from tfllm.tokenizers.wordpiece import WordPieceTokenizer
from tfllm.tokenizers.wordpiece_rules import WordPieceRules

# The names that BERT's own code gives, where no file does.
BERT_ROLES = {
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}


def wordpiece_of_json(
    path: Path,
    content: Mapping[str, Any],
    added: Sequence[AddedToken],
    given: Mapping[str, str],
    **conventions: Any,
) -> WordPieceTokenizer:
    """Make the tokenizer that a `tokenizer.json` with WordPiece describes; arguments as `tokenizer_of_json`'s.

    Raises:
        TokenizerError: it is not BERT's.
    """
    model, normalizer = content["model"], content.get("normalizer")
    pre_tokenizer, decoder = content.get("pre_tokenizer"), content.get("decoder") or {}
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        raise TokenizerError(
            f"{path}: normalizer={normalizer!r} must be BertNormalizer; take another tokenizer"
        )
    if not isinstance(pre_tokenizer, dict) or pre_tokenizer.get("type") != "BertPreTokenizer":
        raise TokenizerError(
            f"{path}: pre_tokenizer={pre_tokenizer!r} must be BertPreTokenizer; take another tokenizer"
        )
    lowercase = bool(normalizer.get("lowercase", True))
    accents = normalizer.get("strip_accents")
    try:
        vocab = {str(token): int(i) for token, i in model["vocab"].items()}
        rules = WordPieceRules(
            clean_text=bool(normalizer.get("clean_text", True)),
            handle_chinese_chars=bool(normalizer.get("handle_chinese_chars", True)),
            strip_accents=lowercase if accents is None else bool(accents),
            lowercase=lowercase,
            subword_prefix=str(model.get("continuing_subword_prefix", "##")),
            max_word_length=int(model.get("max_input_chars_per_word", 100)),
            cleanup=bool(decoder.get("cleanup", True)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TokenizerError(f"{path}: model must be well formed ({error!r}); write the file again") from None
    given = {**given, "unk_token": str(model.get("unk_token", "[UNK]"))}
    framing = read_framing(path, content.get("post_processor"))
    return _make(path, vocab, added, given, rules, framing, **conventions)


def wordpiece_of_vocab(
    path: Path,
    tokens: Sequence[str],
    config: Mapping[str, Any],
    added: Sequence[AddedToken],
    given: Mapping[str, str],
    **conventions: Any,
) -> WordPieceTokenizer:
    """Make the tokenizer of BERT's `vocab.txt`; `config` is `tokenizer_config.json`'s content.

    Raises:
        TokenizerError: a token stands there twice, or there is no unknown token.
    """
    vocab: dict[str, int] = {}
    for i, token in enumerate(tokens):
        if token in vocab:
            raise TokenizerError(
                f"{path}: token {token!r} must stand there once, it is on lines {vocab[token] + 1} and {i + 1};"
                " download the file again"
            )
        if token:
            vocab[token] = i
    lowercase = bool(config.get("do_lower_case", True))
    accents = config.get("strip_accents")
    rules = WordPieceRules(
        lowercase=lowercase,
        strip_accents=lowercase if accents is None else bool(accents),
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
    )
    given = {**BERT_ROLES, **given}
    ends = [(vocab[given[role]],) if given[role] in vocab else () for role in ("cls_token", "sep_token")]
    return _make(path, vocab, added, given, rules, Framing(ends[0], ends[1], ends[1]), **conventions)


def _make(
    path: Path,
    vocab: Mapping[str, int],
    added: Sequence[AddedToken],
    given: Mapping[str, str],
    rules: WordPieceRules,
    framing: Framing,
    **conventions: Any,
) -> WordPieceTokenizer:
    whole = {**vocab, **{token.content: token.id for token in added}}
    if given["unk_token"] not in whole:
        raise TokenizerError(
            f"{path}: unk_token={given['unk_token']!r} must be in the vocabulary of {len(vocab)} tokens; download the"
            " file again"
        )
    special = {token.content: token.id for token in added if token.special}
    given = {**BERT_ROLES, **given}
    roles = not_guessed(choose_roles(path, given, whole, special), given, added)
    special |= {name: whole[name] for name in roles.values()}
    return WordPieceTokenizer(
        vocab,
        special_tokens=special,
        rules=rules,
        added_tokens=added,
        framing=framing,
        **three_roles(roles),
        **conventions,
    )
