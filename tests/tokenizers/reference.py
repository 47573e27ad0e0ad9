"""What the `tokenizers` library makes of a `tokenizer.json`, to be compared with; and texts that are hard for it."""

import json
import random

import tokenizers
from hard_texts import HARD_CASES, random_texts
from make_goldens import PIECES

from tfllm.tokenizers.repair import repair_text

# Graphemes of few bytes, names of tokens, and what normal forms change.
MORE = [
    "ệ",
    "™\u0301",
    "e\u0323\u0302",
    "\u0344",
    "\r\n",
    "\u0600a",
    "a\u093e",
    "ﬁ\u0301",
    "가\u11a8",
    "\u1100\u1161",
    "Σ",
    "\U0001ccd6\u0301",
]


def hard_texts(count, names=(), seed=0):
    rng = random.Random(seed)
    pool = [*PIECES, *MORE, *names]

    def piece():
        if rng.random() < 0.85:
            return rng.choice(pool)
        code = rng.randrange(0x3100 if rng.random() < 0.6 else 0x10F800)
        return chr(code if code < 0xD800 else code + 0x800)

    mixed = ["".join(piece() for _ in range(rng.randrange(14))).encode() for _ in range(count)]
    return [*HARD_CASES, *random_texts(count // 3, seed=seed), *mixed]


class Reference:
    """The library's tokenizer, to which special names in a text are text; for Unigram they are taken from the model.

    Args:
        content: what the `tokenizer.json` says.
    """

    def __init__(self, content):
        self.library = _without_limits(tokenizers.Tokenizer.from_str(json.dumps(content)))
        self.encoder, self._ids = self.library, {}
        if content["model"].get("type") == "Unigram":
            self._hide(content)
        self.encoder.encode_special_tokens = True

    def _hide(self, content):
        special = {token["content"] for token in content["added_tokens"] if token["special"]}
        vocab = [[f" {i}" if n in special else n, s] for i, (n, s) in enumerate(content["model"]["vocab"])]
        content = {**content, "model": {**content["model"], "vocab": vocab}}
        self.encoder = _without_limits(
            tokenizers.Tokenizer.from_str(json.dumps({**content, "added_tokens": [], "post_processor": None}))
        )
        options = ("single_word", "lstrip", "rstrip", "normalized", "special")
        for token in content["added_tokens"]:
            self.encoder.add_tokens(
                [tokenizers.AddedToken(token["content"], **{name: token[name] for name in options})]
            )
            self._ids[self.encoder.token_to_id(token["content"])] = token["id"]

    def encode(self, texts):
        rows = self.encoder.encode_batch([repair_text(text) for text in texts], add_special_tokens=False)
        return [[self._ids.get(i, i) for i in row.ids] for row in rows]

    def decode(self, rows, skip_special_tokens=True):
        return self.library.decode_batch(rows, skip_special_tokens=skip_special_tokens)


def _without_limits(library):
    library.no_padding()
    library.no_truncation()
    return library
