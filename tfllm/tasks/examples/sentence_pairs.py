"""Documents → pairs of their parts, of which the second follows the first or comes from another document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfllm.data.errors import DataError
from tfllm.data.examples import Example
from tfllm.data.layout import Feature, RowLayout, Rows
from tfllm.data.record import TEXT, Record
from tfllm.data.sentences import sentences_of
from tfllm.tokenizers.words import word_starts

FOLLOWS, UNRELATED = 0, 1  # as BERT's next-sentence head has them
_SHORT = 0.1  # share of the pairs that are made shorter, as they are in use
_SEED = 0x5E27


class SentencePairExamples:
    """Tokenises documents sentence by sentence, and makes a row of every two neighbouring parts (Devlin et al. 2019).

    Half of the second parts are put aside, and a part of another document takes their place; the parts put aside begin
    the next rows. What is more than fills a row is cut off. Which parts are taken follows from the text's place in the
    source, and is the same in every epoch; which tokens are hidden is not (see `mask`).

    A row holds what rows of `MaskedLMExamples` hold, `token_type_ids`, 0 for the first part and 1 for the second, and
    for the row `next_sentence_labels`, 0 where the second follows.

    Args:
        tokenizer: As in `MaskedLMExamples`, and `separator_ids`.
        seq_len: Tokens in a row.

    Raises:
        DataError: The tokens around the parts leave no room for two.
    """

    split_column = TEXT
    fewest_documents = 2  # a part of another one is needed

    def __init__(self, tokenizer: Any, *, seq_len: int):
        self.tokenizer, self.seq_len = tokenizer, seq_len
        around = (tokenizer.prefix_ids, tokenizer.separator_ids, tokenizer.suffix_ids)
        self.around = tuple(tuple(map(int, ids)) for ids in around)
        self.room = seq_len - sum(map(len, self.around))
        if self.room < 2:
            raise DataError(
                f"data.seq_len={seq_len} leaves no room for two parts beside the {seq_len - self.room} tokens around"
                " them; raise it"
            )
        small = seq_len + 1
        self.layout = RowLayout(
            (("", seq_len),),
            (
                Feature("token_ids", "", fill=tokenizer.pad_id, limit=tokenizer.vocab_size),
                Feature("words", "", limit=small),
                Feature("token_type_ids", "", limit=2),
                Feature("segment_ids", "", limit=small),
                Feature("next_sentence_labels", None, limit=2),
            ),
            segments=1,
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the rows depend on, beside text and tokenizer."""
        return {"examples": "sentence_pairs 1", "around": self.around, "seq_len": self.seq_len}

    def keeps(self, record: Record) -> bool:
        """Return whether there is any text."""
        return bool(record.text(TEXT).strip())

    def examples(self, records: Sequence[Record], numbers: Sequence[int]) -> Iterator[Example]:
        """Yield each document: its tokens, which of them begin words, and where its sentences end."""
        texts = [record.text(TEXT) for record in records]
        sentences = list(map(sentences_of, texts))
        each = iter(self.tokenizer.encode_batch([sentence for parts in sentences for sentence in parts]))
        for number, text, parts in zip(numbers, texts, sentences, strict=True):
            encoded = [ids for ids in (next(each) for _ in parts) if len(ids)]
            if encoded:
                ids = np.concatenate(encoded).astype(np.int32)
                starts = [word_starts(self.tokenizer.token_bytes, sentence) for sentence in encoded]
                for start in starts:
                    start[:1] = True
                arrays = {
                    "ids": ids,
                    "starts": np.concatenate(starts),
                    "ends": np.cumsum([len(sentence) for sentence in encoded]),
                }
                yield Example(number, arrays, len(ids), len(text.encode()))

    def packer(self) -> SentencePairs:
        """Return what makes the rows of a piece, which are pairs of its documents only."""
        return SentencePairs(self.layout, self.around, self.room)


class SentencePairs:
    """Makes rows of the documents of a piece, once all are there.

    Args:
        layout: The rows.
        around: The ids before the first part, between the two, and behind the second.
        room: Tokens of both parts, at most.
    """

    def __init__(self, layout: RowLayout, around: Sequence[Sequence[int]], room: int):
        self.layout, self.around, self.room = layout, around, room
        self.documents: list[Example] = []

    def add(self, examples: Sequence[Example]) -> Rows:
        """Keep the documents; return no row."""
        self.documents += examples
        return self.layout.empty(0)

    def finish(self) -> Rows:
        """Return all rows."""
        pairs = list(self._pairs())
        rows = self.layout.empty(len(pairs))
        before, between, behind = map(list, self.around)
        for index, (first, second, label) in enumerate(pairs):
            ids = [*before, *first["ids"], *between, *second["ids"], *behind]
            rows["token_ids"][index, : len(ids)] = ids
            number, at = 0, len(before)
            for part in (first, second):
                words = number + np.cumsum(part["starts"])
                rows["words"][index, at : at + len(words)] = words
                number, at = words[-1], at + len(words) + len(between)
            rows["token_type_ids"][index, at - len(between) - len(second["ids"]) : len(ids)] = 1
            rows["segment_ids"][index, : len(ids)] = 1
            rows["next_sentence_labels"][index, 0] = label
        return rows

    def _pairs(self) -> Iterator[tuple[Rows, Rows, int]]:
        for place, document in enumerate(self.documents):
            rng = np.random.default_rng([_SEED, document.number])
            ends = document.arrays["ends"]
            bounds = [0, *ends]
            start = 0  # a sentence
            while start < len(ends):
                room = int(rng.integers(2, self.room + 1)) if rng.random() < _SHORT else self.room
                stop = start + 1
                while stop < len(ends) and bounds[stop] - bounds[start] < room:
                    stop += 1
                middle = start + (int(rng.integers(1, stop - start)) if stop - start > 1 else 1)
                first = (bounds[start], bounds[middle])
                if len(self.documents) > 1 and rng.random() < 0.5:
                    other = self.documents[
                        (place + int(rng.integers(1, len(self.documents)))) % len(self.documents)
                    ]
                    second = self._part(other, room - min(room - 1, first[1] - first[0]), rng)
                    parts = (_slice(document, *first), second, UNRELATED)
                    start = middle
                elif middle < stop:
                    parts = (_slice(document, *first), _slice(document, first[1], bounds[stop]), FOLLOWS)
                    start = stop
                else:  # one sentence, whose second half follows its first
                    half = (first[0] + first[1] + 1) // 2
                    parts = (_slice(document, first[0], half), _slice(document, half, first[1]), FOLLOWS)
                    start = stop
                if len(parts[1]["ids"]):
                    yield (*_cut(parts[0], parts[1], room, rng), parts[2])

    def _part(self, document: Example, room: int, rng: np.random.Generator) -> Rows:
        """Sentences of another document, from one of them on."""
        bounds = [0, *document.arrays["ends"]]
        start = int(rng.integers(0, len(bounds) - 1))
        stop = start + 1
        while stop < len(bounds) - 1 and bounds[stop] - bounds[start] < room:
            stop += 1
        return _slice(document, bounds[start], bounds[stop])


def _slice(document: Example, start: int, stop: int) -> Rows:
    starts = document.arrays["starts"][start:stop].copy()
    starts[:1] = True
    return {"ids": document.arrays["ids"][start:stop], "starts": starts}


def _cut(first: Rows, second: Rows, room: int, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Both, together of `room` tokens at most: the longer loses first, at its front and at its end."""
    sizes = [len(first["ids"]), len(second["ids"])]
    kept = list(sizes)
    while sum(kept) > room:
        longer = int(kept[1] > kept[0])
        kept[longer] = (
            max(kept[1 - longer], room - kept[1 - longer]) if kept[0] != kept[1] else kept[longer] - 1
        )
    cut = []
    for part, size, keep in zip((first, second), sizes, kept, strict=True):
        front = int(rng.binomial(size - keep, 0.5))
        starts = part["starts"][front : front + keep].copy()
        starts[:1] = True
        cut.append({"ids": part["ids"][front : front + keep], "starts": starts})
    return cut[0], cut[1]
