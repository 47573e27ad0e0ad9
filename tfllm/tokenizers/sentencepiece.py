"""SentencePiece: Unigram and BPE, on the `sentencepiece` library."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfllm.tokenizers.added_token import AddedToken
from tfllm.tokenizers.byte_runs import ByteRuns
from tfllm.tokenizers.opening import Opening
from tfllm.tokenizers.repair import repair_text
from tfllm.tokenizers.sentencepiece_as_json import model_to_json
from tfllm.tokenizers.sentencepiece_model import (
    BLANK,
    BYTE,
    CONTROL,
    UNKNOWN,
    UNUSED,
    Model,
    loaded_library,
    parsed_model,
    with_dummy_prefix,
)
from tfllm.tokenizers.text_cut import TextCut
from tfllm.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tfllm.tokenizers.graph.sentencepiece import GraphSentencePieceTokenizer

MODEL_FILE = "tokenizer.model"


class SentencePieceTokenizer(Tokenizer):
    """SentencePiece, as T5, XLM-R, Llama 2 and Mistral have it; ids are the places of the model's pieces.

    Usually made by `read_tokenizer`. Paper: Kudo and Richardson 2018, "SentencePiece".

    Args:
        model: the content of a `tokenizer.model`, or a model that was built like one.
        special_tokens: name to id; the model's control pieces and its unknown one are added.
        bos_token: name of the token that begins a document.
        eos_token: name of the token that ends a document.
        pad_token: name of the token that fills a row.
        added_tokens: as in `Tokenizer`; their ids may lie beyond the model's pieces.
        prefix_every_piece: what stands behind an added token begins with a blank as a text does.
        json: the `tokenizer.json` the model comes from, which is written back as it was; None builds one.
        **conventions: further arguments of `Tokenizer`.

    Raises:
        TokenizerError: the model cannot be read, or an added token has the id of another piece.
    """

    type = "sentencepiece"

    def __init__(
        self,
        model: bytes,
        *,
        special_tokens: Mapping[str, int],
        bos_token: str,
        eos_token: str,
        pad_token: str,
        added_tokens: Sequence[AddedToken] = (),
        prefix_every_piece: bool = True,
        json: Mapping[str, Any] | None = None,
        **conventions: Any,
    ):
        self.model_bytes, self.prefix_every_piece, self._json = model, prefix_every_piece, json
        self.model = parsed_model("model", model)
        special = {p.piece: i for i, p in enumerate(self.model.pieces) if p.type in (CONTROL, UNKNOWN)}
        special = {**special, **special_tokens}
        for token in added_tokens:
            if not token.special:
                special.pop(token.content, None)
        named = {token.content: token.id for token in added_tokens} | special
        token_bytes, start = _decoded(self.model, named)
        unknown = {i for i, piece in enumerate(self.model.pieces) if piece.type == UNKNOWN}
        bytes_ = frozenset(i for i, piece in enumerate(self.model.pieces) if piece.type == BYTE)
        super().__init__(
            token_bytes,
            special_tokens=special,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            added_tokens=added_tokens,
            opening=start,
            byte_runs=ByteRuns(bytes_, whole=False) if bytes_ else None,
            # What is unknown shows, as SentencePiece shows it.
            skipped_ids=frozenset(special.values()) - unknown,
            **conventions,
        )
        self._library = loaded_library(model)
        # What stands behind an added token, where that is no beginning.
        inside = prefix_every_piece or not self.model.normalizer_spec.add_dummy_prefix
        self.inside_bytes = model if inside else with_dummy_prefix(model, False)
        self._inside = self._library if inside else loaded_library(self.inside_bytes)
        self._plain_cut = TextCut(self.added_tokens, special=False) if self.cut_tokens else None
        self._trusted_cut = TextCut(self.added_tokens, special=True)

    def _encode_repaired(self, texts: list[str]) -> list[np.ndarray]:
        if self._plain_cut is None:
            return [np.array(ids, np.int32) for ids in self._library.encode(texts)]
        return [np.array(self._cut_and_encode(self._plain_cut, text)[0], np.int32) for text in texts]

    def encode_with_offsets(self, text: str | bytes) -> tuple[list[int], list[tuple[int, int]]]:  # noqa: D102
        return self._cut_and_encode(self._trusted_cut, repair_text(text), offsets=True)

    def _cut_and_encode(
        self, cut: TextCut, text: str, *, offsets: bool = False
    ) -> tuple[list[int], list[tuple[int, int]]]:
        ids: list[int] = []
        places: list[tuple[int, int]] = []
        for start, end, token in cut(text):
            if token is not None:
                ids.append(token.id)
                places.append((start, end))
                continue
            library = self._library if start == 0 else self._inside
            if not offsets:
                ids.extend(library.encode(text[start:end]))
                continue
            found = library.encode_as_offset_mapping(text[start:end])
            ids.extend(found["ids"])
            places.extend((start + first, start + last) for first, last in found["offsets"])
        return ids, places

    def in_graph(self) -> GraphSentencePieceTokenizer:
        """Return the same tokenizer as TensorFlow operations."""
        from tfllm.tokenizers.graph.sentencepiece import GraphSentencePieceTokenizer

        names = self._sought_names()
        return GraphSentencePieceTokenizer(self.vocabulary, names, self.model_bytes, self.inside_bytes)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.model` beside what `Tokenizer.save` writes."""
        super().save(folder)
        (Path(folder) / MODEL_FILE).write_bytes(self.model_bytes)

    def _tokenizer_json(self) -> dict[str, Any]:
        names = {token.id: token.content for token in self.added_tokens}
        processor = self.vocabulary.framing.to_json(names)
        if self._json is not None:
            return {**self._json, "post_processor": processor}
        content = model_to_json(self.model, self.added_tokens, prefix_every_piece=self.prefix_every_piece)
        return {**content, "post_processor": processor}

    def _encoding_rules(self) -> Any:
        return [hashlib.sha256(self.model_bytes).hexdigest(), self.prefix_every_piece]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "model": None}  # messages of protobuf do not travel

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.model = parsed_model("model", self.model_bytes)


def _decoded(model: Model, named: Mapping[str, int]) -> tuple[list[bytes], Opening | None]:
    """The text of each id, and how a text begins: SentencePiece takes away the blank that it put there."""
    size = max(len(model.pieces), 1 + max(named.values(), default=0))
    texts = [b""] * size
    for i, piece in enumerate(model.pieces):
        if piece.type == BYTE:
            texts[i] = bytes([int(piece.piece[1:-1], 16)])
        elif piece.type == UNKNOWN:
            texts[i] = model.trainer_spec.unk_surface.encode()  # the sign U+2047 by default
        elif piece.type not in (CONTROL, UNUSED):
            texts[i] = piece.piece.replace(BLANK, " ").encode()
    unknown = {i for i, piece in enumerate(model.pieces) if piece.type == UNKNOWN}
    for name, i in named.items():
        if i not in unknown:
            texts[i] = name.encode()
    rules = model.normalizer_spec
    if not (rules.add_dummy_prefix or rules.remove_extra_whitespaces):
        return texts, None
    own = {i for i, piece in enumerate(model.pieces) if piece.type not in (BYTE, UNKNOWN, CONTROL, UNUSED)}
    own -= set(named.values())
    start = [text[1:] if i in own and text.startswith(b" ") else text for i, text in enumerate(texts)]
    goes_on = (
        text == b"" and (rules.remove_extra_whitespaces or texts[i] == b"") for i, text in enumerate(start)
    )
    return texts, Opening(tuple(start), tuple(goes_on))
