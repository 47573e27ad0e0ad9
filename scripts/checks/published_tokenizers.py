"""Published tokenizers, as this package reads them and as their own libraries do."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import sentencepiece
import tokenizers

from scripts.fetch_assets import path_of
from tfllm.convert.gguf_file import GgufFile
from tfllm.tokenizers import Tokenizer, read_tokenizer
from tfllm.tokenizers.files.gguf import read_gguf_tokenizer


class Real(NamedTuple):
    """A published tokenizer, as this package reads it and as its own library does.

    Args:
        name: What it is called.
        tokenizer: Ours.
        library: The name of the library.
        encode: That library's ids of valid texts, in which special names are text.
        decode: Its texts of ids, special tokens left out.
    """

    name: str
    tokenizer: Tokenizer
    library: str
    encode: Callable[[list[str]], list[list[int]]]
    decode: Callable[[list[list[int]]], list[str]]


def real_tokenizers() -> Iterator[Real]:
    path = path_of("smollm2")
    file = GgufFile(path)
    yield by_tokenizers(
        "SmolLM2", read_gguf_tokenizer(file.metadata, file.list_of, path), smollm2_library(file)
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copy(path_of("gpt2-vocab"), folder / "vocab.json")
        shutil.copy(path_of("gpt2-merges"), folder / "merges.txt")
        library = tokenizers.ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
        yield by_tokenizers("GPT-2", read_tokenizer(folder), library._tokenizer)
    bert = path_of("minilm-tokenizer")
    path_of("minilm-tokenizer-config")
    library = tokenizers.Tokenizer.from_file(str(bert))
    library.no_padding()
    library.no_truncation()
    yield by_tokenizers("BERT", read_tokenizer(bert.parent), library)
    for name, asset in (("Unigram", "unigram"), ("Mistral", "mistral")):
        with tempfile.TemporaryDirectory() as temporary:
            shutil.copy(path_of(asset), Path(temporary) / "tokenizer.model")
            processor = sentencepiece.SentencePieceProcessor(model_file=str(path_of(asset)))
            ours = read_tokenizer(temporary)
        yield Real(name, ours, "sentencepiece", processor.encode, processor.decode)


def by_tokenizers(name: str, ours: Tokenizer, library: tokenizers.Tokenizer) -> Real:
    library.encode_special_tokens = True

    def encode(texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in library.encode_batch(texts, add_special_tokens=False)]

    return Real(name, ours, "tokenizers", encode, library.decode_batch)


def smollm2_library(file: GgufFile) -> tokenizers.Tokenizer:
    """SmolLM2's tokenizer as its own tokenizer.json makes it, of the vocabulary in the GGUF file."""
    tokens = file.list_of("tokenizer.ggml.tokens")
    merges = [tuple(pair.split(" ")) for pair in file.list_of("tokenizer.ggml.merges")]
    model = tokenizers.models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
    library = tokenizers.Tokenizer(model)
    digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
    words = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    library.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([digits, words])
    library.decoder = tokenizers.decoders.ByteLevel()
    types = file.list_of("tokenizer.ggml.token_type")
    library.add_special_tokens([token for token, kind in zip(tokens, types, strict=True) if kind == 3])
    return library
