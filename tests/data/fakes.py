"""Stand-ins shared by the data tests: a byte tokenizer that counts its calls, and a source of given texts."""

import numpy as np

from tfllm.data.examples import Example, WholeSegments
from tfllm.data.layout import Feature, RowLayout
from tfllm.data.record import Record
from tfllm.data.sources.source import Source, TextSource, settings_digest
from tfllm.data.store import RowStore


class ByteTokenizer:
    bos_id, eos_id, pad_id = 256, 257, 258

    def __init__(self, vocab_size=259, fingerprint="bytes-1"):
        self.vocab_size = vocab_size
        self.fingerprint = fingerprint
        self.calls = 0

    def encode_batch(self, texts):
        self.calls += 1
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

    def token_byte_lengths(self):
        return np.array([1] * 256 + [0] * 3, np.int32)


class ListSource(TextSource):
    def __init__(self, texts):
        self.texts = list(texts)

    def documents(self):
        yield from self.texts

    def describe(self):
        return f"a list of {len(self.texts)} texts"

    def fingerprint(self):
        return settings_digest(texts=self.texts)


def words(number, seed=0):
    """Texts of very different lengths, all different."""
    rng = np.random.default_rng(seed)
    return [f"{i} " + "abcdefgh"[: rng.integers(1, 9)] * rng.integers(1, 30) for i in range(number)]


def write_store(folder, *, num_rows, seq_len, dtype="uint16", packing=True):
    """A store of random rows, without the road from text."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 250, [num_rows, 3, seq_len])
    rows[:, 2] = np.sort(rng.integers(1, 4, [num_rows, seq_len]), axis=1)
    folder.mkdir(parents=True, exist_ok=True)
    rows.astype(dtype).tofile(folder / "rows.bin")
    return RowStore(
        path=folder / "rows.bin",
        num_rows=num_rows,
        seq_len=seq_len,
        dtype=dtype,
        packing=packing,
        pad_id=258,
        num_documents=num_rows,
        num_tokens=num_rows * seq_len,
        num_bytes=num_rows * seq_len,
    )


class Labelled:
    """Makes of `{text, label}` a segment each: its bytes, whether each is a vowel, its label and its length as a float.

    With `sides`, the reversed text is a second side.
    """

    split_column = "text"

    fewest_documents = 1

    def __init__(self, *, seq_len=24, packing=True, segments=4, sides=("",)):
        self.packing, self.seq_len, self.sides = packing, seq_len, sides
        features = [
            feature
            for side in sides
            for feature in (
                Feature(f"{side}token_ids", side, fill=258, limit=259),
                Feature(f"{side}vowels", side),
                Feature(f"{side}segment_ids", side, limit=seq_len + 1),
            )
        ]
        features += [Feature("example_ids", None, fill=-1), Feature("labels", None, fill=-1)]
        features += [Feature("scores", None, fill=-0.5, dtype="float32")]
        self.layout = RowLayout(tuple((side, seq_len) for side in sides), tuple(features), segments)

    @property
    def settings(self):
        return {"examples": "labelled", "layout": self.layout.as_mapping(), "packing": self.packing}

    def keeps(self, record):
        return bool(record.text("text"))

    def examples(self, records, numbers):
        for record, number in zip(records, numbers, strict=True):
            data = np.frombuffer(record.text("text").encode(), np.uint8)[: self.seq_len].astype(np.int32)
            arrays = {"example_ids": number, "labels": record.value("label"), "scores": len(data) / 7}
            for index, side in enumerate(self.sides):
                ids = data[::-1][: len(data) - 2] if index else data
                arrays |= {f"{side}token_ids": ids, f"{side}vowels": np.isin(ids, list(b"aeiou")) * -1}
            yield Example(number, arrays, len(data), len(data))

    def packer(self):
        return WholeSegments(self.layout, packing=self.packing)


class LabelledSource(Source):
    """Records of texts of 3 to 24 bytes with a label; every tenth is empty."""

    def __init__(self, count=60, seed=0):
        self.count, self.seed = count, seed

    def records(self):
        rng = np.random.default_rng(self.seed)
        for number in range(self.count):
            text = "".join(rng.choice(list("aeioubcd"), rng.integers(3, 25)))
            fields = {"text": "" if number % 10 == 9 else text, "label": int(rng.integers(-3, 70_000))}
            yield Record(fields, f"list:{number + 1}")

    def describe(self):
        return f"{self.count} labelled texts"

    def fingerprint(self):
        return settings_digest(count=self.count, seed=self.seed)
