"""Texts that tokenizers are compared on: drawn at random, from a seed."""

from __future__ import annotations

import argparse
import inspect
import random
import textwrap
from collections.abc import Callable

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


def hard_text(rng: random.Random) -> bytes:
    """Added words in and beside words, names of tokens, blanks, joined emojis, marks, several scripts."""
    count = rng.randrange(14)
    return "".join(rng.choice(HARD_PIECES if rng.random() < 0.8 else PIECES) for _ in range(count)).encode()


def random_ids(size: int, *, count: int, fewer_than: int) -> list[list[int]]:
    """Rows of ids of a vocabulary of `size`, the same ones each time."""
    rng = random.Random(1)
    return [[rng.randrange(size) for _ in range(rng.randrange(fewer_than))] for _ in range(count)]
