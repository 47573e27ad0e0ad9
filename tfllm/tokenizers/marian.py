"""Marian's pair of SentencePiece models with one vocabulary, as OPUS-MT's translators have them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfllm.tokenizers.bpe_vocab import check_ids
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.opening import Opening
from tfllm.tokenizers.repair import repair_text
from tfllm.tokenizers.sentencepiece_model import (
    BLANK,
    BYTE,
    CONTROL,
    UNKNOWN,
    UNUSED,
    Model,
    loaded_library,
    parsed_model,
)
from tfllm.tokenizers.text_cut import UNCUT, TextCut
from tfllm.tokenizers.tokenizer import CONFIG_FILE, Tokenizer

if TYPE_CHECKING:
    from tfllm.tokenizers.graph.marian import GraphMarianTokenizer

SOURCE_FILE, TARGET_FILE, VOCAB_FILE = "source.spm", "target.spm", "vocab.json"
ROLES = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


class MarianTokenizer(Tokenizer):
    """Two SentencePiece models, one of the language that is read and one of that which is written, whose pieces get
    their ids from one vocabulary. `encode` is for the source's language, `target.encode` for the other, and `decode`
    for both.

    A text may begin with the code of a language to be written, `>>fr<<`, which is one token. Usually made by
    `read_tokenizer`. Paper: Junczys-Dowmunt et al. 2018, "Marian"; the ids are those of transformers' class.

    Args:
        source: the content of `source.spm`.
        target: that of `target.spm`.
        vocab: piece to id, of `vocab.json`.
        special_tokens: name to id; `unk_token` is one of them.
        bos_token: name of the token that begins what is decoded.
        eos_token: name of the token that ends a text.
        pad_token: name of the token that fills a row.
        is_target: texts are of the target's language.
        **conventions: further arguments of `Tokenizer`.

    Raises:
        TokenizerError: a model cannot be read, or two pieces share an id.
    """

    type = "marian"

    def __init__(
        self,
        source: bytes,
        target: bytes,
        vocab: Mapping[str, int],
        *,
        special_tokens: Mapping[str, int],
        bos_token: str,
        eos_token: str,
        pad_token: str,
        is_target: bool = False,
        **conventions: Any,
    ):
        self.vocab = dict(vocab)
        check_ids(self.vocab)
        self._arguments = {"special_tokens": dict(special_tokens), "bos_token": bos_token, **conventions}
        self._arguments |= {"eos_token": eos_token, "pad_token": pad_token}
        self._files, self.is_target = {SOURCE_FILE: source, TARGET_FILE: target}, is_target
        self.model_bytes = target if is_target else source
        models = {name: parsed_model(name, model) for name, model in self._files.items()}
        for name, model in models.items():
            if any(piece.type == BYTE for piece in model.pieces):
                raise TokenizerError(
                    f"{name}: must have no pieces for bytes, as Marian's have none; download it again"
                )
        texts, opening = _decoded(models[SOURCE_FILE], self.vocab, special_tokens)
        super().__init__(
            texts,
            special_tokens=special_tokens,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            opening=opening,
            **conventions,
        )
        if self.unk_id is None:
            raise TokenizerError(
                f"unk_token must be one of the special tokens {sorted(special_tokens)}; name it"
            )
        # Whatever a text spells, it makes no special token.
        self.piece_ids = {name: i for name, i in self.vocab.items() if i not in self.special_ids}
        self._library = loaded_library(self.model_bytes)
        self._trusted_cut = TextCut(self.added_tokens, special=True)

    @cached_property
    def target(self) -> MarianTokenizer:
        """The same for texts of the target's language."""
        files = self._files
        target = MarianTokenizer(
            files[SOURCE_FILE], files[TARGET_FILE], self.vocab, is_target=True, **self._arguments
        )
        target.unset_roles = self.unset_roles
        return target

    def _encode_repaired(self, texts: list[str]) -> list[np.ndarray]:
        codes = [_code_length(text) for text in texts]
        encoded = self._library.encode([t[n:] for t, n in zip(texts, codes, strict=True)], out_type=str)
        rows = zip(texts, codes, encoded, strict=True)
        pieces = ([text[:code], *found] if code else found for text, code, found in rows)
        return [np.array([self._id_of(piece) for piece in row], np.int32) for row in pieces]

    def _id_of(self, piece: str) -> int:
        assert self.unk_id is not None
        return self.piece_ids.get(piece, self.unk_id)

    def encode_with_offsets(  # noqa: D102
        self, text: str | bytes, *, special: bool = True
    ) -> tuple[list[int], list[tuple[int, int]]]:
        text = repair_text(text)
        ids: list[int] = []
        places: list[tuple[int, int]] = []
        for start, end, token in (self._trusted_cut if special else UNCUT)(text):
            if token is not None:
                ids.append(token.id)
                places.append((start, end))
                continue
            code = _code_length(text[start:end])
            if code:
                ids.append(self._id_of(text[start : start + code]))
                places.append((start, start + code))
            rest = text[start + code : end]
            ids.extend(self._id_of(piece) for piece in self._library.encode(rest, out_type=str))
            found = self._library.encode_as_offset_mapping(rest)["offsets"]
            places.extend((start + code + first, start + code + last) for first, last in found)
        return ids, places

    def _texts(self, ids: Iterable[int], skip_special_tokens: bool) -> tuple[list[int], list[bytes]]:
        ids, texts = super()._texts(ids, skip_special_tokens)
        token_bytes, opening = self.token_bytes, self.vocabulary.opening
        assert opening is not None
        at_start = True  # a text begins anew behind a special token, which gets a blank
        for place, i in enumerate(ids):
            if i in self.special_ids:
                texts[place], at_start = token_bytes[i] + b" ", True
            else:
                texts[place] = (opening.token_bytes if at_start else token_bytes)[i]
                at_start = at_start and opening.goes_on[i]
        return ids, texts

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text that `ids` stand for, in either language, without white space around it."""
        return super().decode(ids, skip_special_tokens=skip_special_tokens).strip()

    def in_graph(self) -> GraphMarianTokenizer:
        """Return the same tokenizer as TensorFlow operations."""
        from tfllm.tokenizers.graph.marian import GraphMarianTokenizer

        names = self._sought_names()
        return GraphMarianTokenizer(self.vocabulary, names, self.model_bytes, self.piece_ids)

    def save(self, folder: str | Path) -> None:
        """Write the two models, `vocab.json` and `tokenizer_config.json`, which transformers reads as well."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, model in self._files.items():
            (folder / name).write_bytes(model)
        roles = {role: name for role, name in self.roles.items() if role in ROLES}
        for name, content in (
            (VOCAB_FILE, self.vocab),
            (CONFIG_FILE, {"tokenizer_class": "MarianTokenizer", **roles}),
        ):
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def _tokenizer_json(self) -> dict[str, Any]:
        raise TokenizerError(
            "Marian's two models cannot be written as one tokenizer.json; save them with save"
        )

    def _encoding_rules(self) -> Any:
        models = [hashlib.sha256(model).hexdigest() for model in self._files.values()]
        return [self.vocab, models, self.is_target]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "target"}


def _code_length(text: str) -> int:
    """How long the code of a language is that a text begins with."""
    return text.find("<<") + 2 if text.startswith(">>") and "<<" in text else 0


def _decoded(
    model: Model, vocab: Mapping[str, int], special: Mapping[str, int]
) -> tuple[list[bytes], Opening]:
    """The text of each id, and of those that begin a text: SentencePiece takes the blank of its own pieces away."""
    kinds = {piece.piece: piece.type for piece in model.pieces}
    rules = model.normalizer_spec
    takes = rules.add_dummy_prefix or rules.remove_extra_whitespaces
    size = 1 + max(vocab.values())
    texts, start, goes_on = [b""] * size, [b""] * size, [True] * size
    for name, i in vocab.items():
        kind = kinds.get(name, UNKNOWN)
        if name in special:
            texts[i] = start[i] = name.encode()
            continue
        texts[i] = b"" if kind in (CONTROL, UNUSED) else name.replace(BLANK, " ").encode()
        start[i] = texts[i][1:] if takes and kind != UNKNOWN and texts[i][:1] == b" " else texts[i]
        goes_on[i] = start[i] == b"" and (rules.remove_extra_whitespaces or texts[i] == b"")
    return texts, Opening(tuple(start), tuple(goes_on))
