"""Tokenizers: text to token ids and back, offline (Rust, C++ or NumPy) and inside a TensorFlow graph, id for id
the same.

Importing this package does not import TensorFlow; `Tokenizer.in_graph` does.
"""

from tfllm.tokenizers.byte import ByteTokenizer
from tfllm.tokenizers.byte_bpe import ByteBPETokenizer
from tfllm.tokenizers.errors import NoTokenizerError, TokenizerError
from tfllm.tokenizers.files.folder import read_tokenizer
from tfllm.tokenizers.marian import MarianTokenizer
from tfllm.tokenizers.metaspace import MetaspaceTokenizer
from tfllm.tokenizers.sentencepiece import SentencePieceTokenizer
from tfllm.tokenizers.tokenizer import Tokenizer
from tfllm.tokenizers.wordpiece import WordPieceTokenizer

__all__ = [
    "ByteBPETokenizer",
    "ByteTokenizer",
    "MarianTokenizer",
    "MetaspaceTokenizer",
    "NoTokenizerError",
    "SentencePieceTokenizer",
    "Tokenizer",
    "TokenizerError",
    "WordPieceTokenizer",
    "read_tokenizer",
]
