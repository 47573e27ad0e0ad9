"""What the losses of tasks are compared on with other libraries. Needs NumPy only."""

from __future__ import annotations

import numpy as np

VOCAB, LENGTH = 61, 44
BERT = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": LENGTH,
    "type_vocab_size": 2,
}
HIDDEN = (1, 40)  # tokens of each row that are hidden
NOT_SAID = -100  # of tokens that are not hidden, as PyTorch has it


def pretraining_batch() -> dict[str, np.ndarray]:
    """int64 [2, T]: `tokens`, `types`, and `labels`, what is hidden; and `follows` [2], 0 where the second part does."""
    rng = np.random.RandomState(11)
    tokens, truth = rng.randint(
        1, VOCAB, [2, 2, LENGTH]
    )  # transformers gives no gradient to 0, which is padding
    labels = np.full([2, LENGTH], NOT_SAID)
    for row, count in enumerate(HIDDEN):
        places = rng.permutation(LENGTH)[:count]
        labels[row, places] = truth[row, places]
    types = (np.arange(LENGTH) >= [[17], [30]]).astype(np.int64)
    return {"tokens": tokens, "types": types, "labels": labels, "follows": np.array([0, 1])}


def vectors(count: int = 7, width: int = 5) -> np.ndarray:
    """float32 [3, N, D]: of anchors, of what belongs to them, and of what does not; of all lengths."""
    rng = np.random.RandomState(12)
    return (rng.standard_normal([3, count, width]) * rng.uniform(0.2, 5.0, [3, count, 1])).astype(np.float32)
