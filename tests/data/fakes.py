"""Stand-ins shared by the data tests: a byte tokenizer that counts its calls, and a source of given texts."""

import numpy as np

from tfllm.data.sources.source import settings_digest
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


class ListSource:
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
