"""A small Gemma's tokenizer: a GGUF file, as llama.cpp's converter writes it, and the same in `tokenizers`."""

import inspect
import io
import random
import textwrap
from pathlib import Path

import gguf
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from tfllm.tokenizers.sentencepiece_model import BYTE, CONTROL, UNKNOWN, USER_DEFINED, Model, parsed_model

BLANK = "\u2581"


def trained() -> Model:
    """A BPE with bytes, in which runs of line breaks and of blanks are a user's tokens."""
    lines = "".join(inspect.getsource(module) for module in (inspect, random, textwrap)).splitlines()
    runs = ["\n" * n for n in range(1, 8)] + [BLANK * n for n in range(2, 9)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=900,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        bos_piece="<bos>",
        eos_piece="<eos>",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=["<mask>", *runs, "<table>"],
        control_symbols=["<start_of_turn>"],
        minloglevel=2,
    )
    return parsed_model("model", model.getvalue())


def write_gemma(path: Path) -> tokenizers.Tokenizer:
    """Write the GGUF file, and return what means the same in the library."""
    model = trained()
    writer = gguf.GGUFWriter(str(path), "gemma2")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    special = (CONTROL, UNKNOWN)
    # `_set_vocab_sentencepiece` of convert_hf_to_gguf.py: special tokens, <unk> too, are control ones; blanks in a
    # user's tokens are written as blanks; neither keeps its score.
    writer.add_token_list(
        [p.piece.replace(BLANK, " ") if p.type == USER_DEFINED else p.piece for p in model.pieces]
    )
    writer.add_token_scores(
        [-1000.0 if p.type in (*special, USER_DEFINED) else p.score for p in model.pieces]
    )
    writer.add_token_types([CONTROL if p.type in special else p.type for p in model.pieces])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_space_prefix(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return in_library(model)


def in_library(model: Model) -> tokenizers.Tokenizer:
    """The model as transformers converts it for Gemma."""
    vocab = {piece.piece: i for i, piece in enumerate(model.pieces)}
    plain = {p.piece: p.score for p in model.pieces if p.type not in (CONTROL, UNKNOWN, BYTE)}
    merges = []
    for piece, score in plain.items():
        pairs = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        merges += [(score, left, right) for left, right in pairs if left in plain and right in plain]
    merges.sort(key=lambda merge: (-merge[0], -len(merge[1]), -len(merge[2])))
    library = tokenizers.Tokenizer(
        models.BPE(
            vocab,
            [(left, right) for _, left, right in merges],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    library.normalizer = normalizers.Replace(" ", BLANK)
    library.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    library.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    library.add_special_tokens([p.piece for p in model.pieces if p.type in (CONTROL, UNKNOWN)])
    user = [p.piece for p in model.pieces if p.type == USER_DEFINED]
    library.add_tokens([tokenizers.AddedToken(name, normalized=False) for name in user])
    library.encode_special_tokens = True
    return library
