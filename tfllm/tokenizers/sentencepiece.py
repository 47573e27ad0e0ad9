"""SentencePiece: Unigram and BPE, on the `sentencepiece` library."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sentencepiece

from tfllm.tokenizers.added_token import AddedToken
from tfllm.tokenizers.byte_runs import ByteRuns
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.framing import framing_of
from tfllm.tokenizers.learnable import LONGEST_LINE, learnable_lines
from tfllm.tokenizers.opening import Opening
from tfllm.tokenizers.repair import repair_text
from tfllm.tokenizers.roles import encoder_roles
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
from tfllm.tokenizers.text_cut import UNCUT, TextCut
from tfllm.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tfllm.tokenizers.graph.sentencepiece import GraphSentencePieceTokenizer

MODEL_FILE = "tokenizer.model"
ALGORITHMS = ("unigram", "bpe")

PAD, EOS, UNK, BOS = "<pad>", "</s>", "<unk>", "<s>"  # ids 0 to 3
_THREADS = 4  # sums of the learning depend on their number, so it is the same everywhere


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

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        vocab_size: int,
        algorithm: str = "unigram",
        extra_special_tokens: Sequence[str] = (),
        other_roles: Mapping[str, str] | None = None,
        frame: str = "eos",
    ) -> SentencePieceTokenizer:
        """Learn pieces from the lines of `texts`; the same texts give the same tokenizer.

        Texts are had back exactly: nothing is normalized, digits are single, and what has no piece, line ends among
        it, is written in tokens for bytes. Special tokens are <pad>, </s>, <unk> and <s>, ids 0 to 3, and those
        asked for.

        Args:
            texts: texts, read once.
            vocab_size: ids in all. Fewer are learned where the texts have no further pieces.
            algorithm: unigram (Kudo 2018), or bpe.
            extra_special_tokens: further names.
            other_roles: names of further special tokens, by what they are for, such as `mask_token`.
            frame: what stands around a text (see `framing_of`).

        Raises:
            TokenizerError: there is no text, or `vocab_size` has no room for special tokens, 256 bytes and the
                characters of the texts.
        """
        others = {**dict(other_roles or {}), **encoder_roles(frame, BOS, EOS)}
        own = (PAD, EOS, UNK, BOS)
        control = [
            name for name in dict.fromkeys([*others.values(), *extra_special_tokens]) if name not in own
        ]
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=learnable_lines(texts),
                model_writer=model,
                vocab_size=vocab_size,
                model_type=algorithm,
                control_symbols=control,
                hard_vocab_limit=False,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,
                split_digits=True,
                byte_fallback=True,
                max_sentence_length=4 * LONGEST_LINE,
                num_threads=_THREADS,
                minloglevel=3,
                pad_id=own.index(PAD),
                eos_id=own.index(EOS),
                unk_id=own.index(UNK),
                bos_id=own.index(BOS),
            )
        except RuntimeError as error:
            raise TokenizerError(_learning_problem(str(error), vocab_size)) from None
        return cls(
            model.getvalue(),
            special_tokens={},
            bos_token=BOS,
            eos_token=EOS,
            pad_token=PAD,
            other_roles={"unk_token": UNK, **others},
            framing=framing_of(frame, bos=own.index(BOS), eos=own.index(EOS)),
        )

    def _encode_repaired(self, texts: list[str]) -> list[np.ndarray]:
        if self._plain_cut is None:
            return [np.array(ids, np.int32) for ids in self._library.encode(texts)]
        return [np.array(self._cut_and_encode(self._plain_cut, text)[0], np.int32) for text in texts]

    def encode_with_offsets(  # noqa: D102
        self, text: str | bytes, *, special: bool = True
    ) -> tuple[list[int], list[tuple[int, int]]]:
        cut = self._trusted_cut if special else self._plain_cut or UNCUT
        return self._cut_and_encode(cut, repair_text(text), offsets=True)

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


def _learning_problem(error: str, vocab_size: int) -> str:
    """What the library says, in our words; it counts what is needed at least."""
    needed = re.search(r"(\d+) vs (\d+)", error)
    if "sentences_.empty()" in error:
        return "there is no text to learn pieces from; give some"
    if "required_chars" in error and needed is not None:
        return (
            f"vocab_size={vocab_size} must be at least {needed[2]}: special tokens, 256 bytes, and characters of the"
            " text; raise it"
        )
    return f"vocab_size={vocab_size}: no pieces can be learned from this text ({error[-300:]}); take byte_bpe"


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
