"""Makes tokenizers with transformers, and writes what it makes of texts; `tokenizers.py --saved` runs this.

    python -m scripts.checks.tokenizers_peers FOLDER

FOLDER/texts.json has the texts; beside it come a folder for each tokenizer, as transformers saves it, and answers.json.
"""

import inspect
import json
import random
import sys
import textwrap
from pathlib import Path

from scripts.checks.marian_folder import write_marian
from scripts.checks.random_texts import random_ids

BLANK = "\u2581"
WORDS = ["covid", "New York", "Caf\u00e9"]


def main(folder: Path) -> None:
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    answers = {name: make(folder / name, texts) for name, make in TOKENIZERS.items()}
    (folder / "answers.json").write_text(json.dumps(answers), encoding="utf-8")


def corpus() -> list[str]:
    lines = "".join(inspect.getsource(module) for module in (inspect, random, textwrap)).splitlines()
    return [*lines, *["\u4e2d\u6587 na\u00efve caf\u00e9 \u0627\u0644\u0639 \U0001f917 e\u0301"] * 9]


def llama(scheme: str):
    """A retrained Llama, with the 256 bytes that training leaves out, and with Metaspace of a scheme."""

    def make(folder: Path, texts: list[str]) -> dict:
        import transformers
        from tokenizers import Tokenizer, pre_tokenizers

        trained = transformers.LlamaTokenizer().train_new_from_iterator([corpus()], 900)
        content = json.loads(trained.backend_tokenizer.to_str())
        vocab = content["model"]["vocab"]
        for byte in range(256):
            vocab.setdefault(f"<0x{byte:02X}>", len(vocab))
        library = Tokenizer.from_str(json.dumps(content))
        library.pre_tokenizer = pre_tokenizers.Metaspace(BLANK, scheme, False)
        library.add_tokens(WORDS)
        return saved(
            transformers.PreTrainedTokenizerFast(tokenizer_object=library, **LLAMA_ROLES), folder, texts
        )

    return make


LLAMA_ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def retrained(kind: str, words: list[str]):
    """One that transformers trains anew, with words added."""

    def make(folder: Path, texts: list[str]) -> dict:
        import transformers

        trained = getattr(transformers, kind)().train_new_from_iterator([corpus()], 900)
        trained.add_tokens(words)
        return saved(trained, folder, texts)

    return make


def saved(tokenizer, folder: Path, texts: list[str]) -> dict:
    """Saves it, and answers with what is read again."""
    import transformers

    tokenizer.save_pretrained(folder)
    library = transformers.AutoTokenizer.from_pretrained(folder).backend_tokenizer
    library.no_padding()
    library.no_truncation()
    library.encode_special_tokens = True  # special names in texts are text
    ids = [encoding.ids for encoding in library.encode_batch(texts, add_special_tokens=False)]
    some = random_ids(library.get_vocab_size(), count=len(texts), fewer_than=12)
    return {
        "ids": ids,
        "texts": library.decode_batch(ids),
        "some": some,
        "decoded": library.decode_batch(some),
    }


def marian(folder: Path, texts: list[str]) -> dict:
    import transformers

    more = (">>fr<<", ">>de<<", "<pad>")
    size = write_marian(folder, corpus(), left_out=19, more=more, config={}, vocab_size=600)
    tokenizer = transformers.MarianTokenizer.from_pretrained(folder)
    pieces = [tokenizer.tokenize(text, split_special_tokens=True) for text in texts]
    ids = [tokenizer.convert_tokens_to_ids(row) for row in pieces]
    some = random_ids(size, count=len(texts), fewer_than=12)
    back, decoded = (
        [tokenizer.decode(row, skip_special_tokens=True) for row in rows] for rows in (ids, some)
    )
    return {"ids": ids, "texts": back, "some": some, "decoded": decoded}


TOKENIZERS = {
    "Llama, Metaspace first": llama("first"),
    "Llama, Metaspace always": llama("always"),
    "Llama, Metaspace never": llama("never"),
    "Llama, retrained": retrained("LlamaTokenizer", []),
    "Gemma, retrained": retrained("GemmaTokenizer", WORDS),
    "BERT with added words": retrained("BertTokenizer", WORDS),
    "GPT-2, retrained": retrained("GPT2Tokenizer", WORDS),
    "Marian": marian,
}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
