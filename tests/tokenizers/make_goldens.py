"""Saves small tokenizers as transformers does today, with the ids and texts that it gives: the files in `goldens/`.

    python -m tests.tokenizers.make_goldens tests/tokenizers/goldens

Needs transformers 5 and sentencepiece. A tokenizer that is there is not made again: the library learns WordPiece and
Unigram a little differently each time. Special names in texts are text here, as `Tokenizer.encode` has it.
"""

import json
import random
import sys
from pathlib import Path

from scripts.checks.marian_folder import write_marian
from scripts.checks.random_texts import random_ids

TEXT = """
def read(path, names=(), *, mode="r"):
    '''Returns the lines of a file that hold one of the names, new York and covid among them.'''
    with open(path, mode) as lines:
        return [line.strip() for line in lines if not names or any(name in line for name in names)]

The quick brown fox jumps over the lazy dog; the dog, being lazy, does not mind. \u4e2d\u6587 na\u00efve \u00e9t\u00e9
""".strip().splitlines()
PIECES = [
    *" \n\t'aest1!\u00e9\u0301\u4e2d\0\u2581",
    "  ",
    "   ",
    "\n\n",
    "the",
    " of",
    "return",
    "``",
    "''",
    " New",
    "New",
]
PIECES += [
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "e\u0301",
    "\u0627\u0644\u0639",
    "\u0939\u093f",
    "\ufb01",
    "\u00bd",
]
PIECES += [
    "\r\n",
    "\u0130",
    "\u00df",
    "\u2122",
    "<0x0A>",
    "</s>",
    "<unk>",
    "covid",
    "\ufeff",
    "\u3000",
    "york",
    ">>fr<<",
]
WORDS = ["covid", "New York", "Caf\u00e9"]
NUM_TEXTS = 120
FRAMED = "the dog"


def main(folder: Path) -> None:
    import transformers

    found = {"marian": marian(folder / "marian", transformers)}
    for name, kind in {
        "llama": transformers.LlamaTokenizer,
        "gemma": transformers.GemmaTokenizer,
        "bert": transformers.BertTokenizer,
        "t5": transformers.T5Tokenizer,
        "gpt2": transformers.GPT2Tokenizer,
    }.items():
        if not (folder / name).exists():
            trained = kind().train_new_from_iterator([TEXT], 340 if name != "t5" else 300)
            trained.add_tokens(WORDS)
            trained.save_pretrained(folder / name)
            shorten(folder / name / "tokenizer.json")
        found[name] = answers(transformers.AutoTokenizer.from_pretrained(folder / name))
    text = json.dumps(found, ensure_ascii=True, separators=(",", ":"))
    (folder / "goldens.json").write_text(text + "\n", encoding="utf-8")


def texts() -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices(PIECES, k=rng.randrange(12))) for _ in range(NUM_TEXTS)]


def answers(tokenizer) -> dict:
    library = tokenizer._tokenizer
    library.encode_special_tokens = True
    rows = [encoding.ids for encoding in library.encode_batch(texts(), add_special_tokens=False)]
    framed = tokenizer(FRAMED)["input_ids"]
    some = random_ids(len(tokenizer), count=NUM_TEXTS, fewer_than=9)
    decoded = [tokenizer.decode(row, skip_special_tokens=True) for row in some]
    return {"ids": rows, "framed": framed, "some": some, "decoded": decoded}


def shorten(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content, ensure_ascii=True, separators=(",", ":")) + "\n", encoding="utf-8")


def marian(folder: Path, transformers) -> dict:
    size = write_marian(
        folder,
        TEXT,
        left_out=11,
        more=(">>fr<<", "\u4e2d", "<pad>"),
        config={"source_lang": "en", "target_lang": "fr"},
        vocab_size=76,
        num_threads=1,
        normalization_rule_name="identity",
    )
    tokenizer = transformers.MarianTokenizer.from_pretrained(folder)

    def encode(text: str) -> list[int]:
        return tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text, split_special_tokens=True))

    rows = [encode(text) for text in texts()]
    tokenizer._switch_to_target_mode()
    of_target = [encode(text) for text in texts()]
    tokenizer._switch_to_input_mode()
    some = random_ids(size, count=NUM_TEXTS, fewer_than=9)
    return {
        "ids": rows,
        "target": of_target,
        "framed": tokenizer(FRAMED)["input_ids"],
        "some": some,
        "decoded": [tokenizer.decode(row, skip_special_tokens=True) for row in some],
        "whole": [tokenizer.decode(row, skip_special_tokens=False) for row in some],
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
