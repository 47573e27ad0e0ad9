"""Texts that are hard to tokenize."""

import random

HARD_CASES = [
    b"",
    b" ",
    b"\0",
    b"\0\0 \0",
    b"\x01\x1f\x7f\xc2\x85 \xc2\xa0",
    b"'s",
    b"''s",
    b" 's",
    b"  'street",
    b"'s's",
    b"'S 'LL it'd\n'd\t've!'re9'm 'm",
    b"'l'll'lll 're 'r'e",
    b"don't you'll we've they're I'm he'd it's",
    b"a  b   c\n\n\n d \t\n e\n",
    b"   ",
    b"\r\n\r\n  x",
    b"def f(x):\n    return {'a': x ** 2}  # 100%\n",
    b"<|bos|><|eos|><|pad|><|endoftext|>",
    b"3.14159 1e-5 0xFF",
    "e\u0301 n\u0303 \u0301 a\u200db".encode(),
    "中文，日本語 한국어 \u3000ไทย العربية हिन्दी".encode(),
    "🤗👨‍👩‍👧🏳️‍🌈 ☃ ½ Ⅷ ²".encode(),
    "\ufeffbom \ufffe \uffff \U0010ffff".encode(),
    b"\xff\xfe",
    b"a\xf0\x9f\x98b",
    b"\xed\xa0\x80 surrogate \xc0\x80 overlong \xf4\x90\x80\x80 beyond",
    b"\xe2\x82",
    b"-" * 300,
    b" " * 700 + b"x" + b"\n" * 700,
    b"ab" * 500,
]


def random_texts(count: int, seed: int = 0) -> list[bytes]:
    """Half of them Unicode from all planes with many spaces and contractions, half arbitrary bytes."""
    rng = random.Random(seed)
    common = " \n\t'aest1!é\u00a0\u0301中🤗"
    leads = bytes([0x00, 0x20, 0x41, 0x80, 0xBF, 0xC2, 0xE0, 0xED, 0xF0, 0xF4, 0xFF])

    def character():
        if rng.random() < 0.7:
            return rng.choice([*common, "'s", "'ll", " 're", "the", " of"])
        code = rng.randrange(0x10F800)
        return chr(code if code < 0xD800 else code + 0x800)

    def byte():
        return rng.choice(leads) if rng.random() < 0.6 else rng.randrange(256)

    unicode = ["".join(character() for _ in range(rng.randrange(40))).encode() for _ in range(count // 2)]
    return unicode + [bytes(byte() for _ in range(rng.randrange(40))) for _ in range(count - count // 2)]
