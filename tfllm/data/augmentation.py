"""Altered copies of training records: words left out, small letters, mistakes in typing."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tfllm.data.errors import DataError
from tfllm.data.examples import Example, ExampleMaker, Packer
from tfllm.data.layout import RowLayout
from tfllm.data.record import TOKENS, Record

TAGS = "tags"
_WORDS = re.compile(r"\S+\s*")


@dataclass(frozen=True)
class Augmentation:
    """How copies differ; the same whatever the machine, from the seed, the record's place and the copy's number.

    Attributes:
        copies: Copies of each record, beside it.
        word_dropout: Share of the words that are left out; never all of a text (Wei & Zou 2019, "EDA").
        lowercase: Share of the copies in small letters.
        typos: Share of the words with a letter that is left out, doubled, or stands before the one before it.
        seed: Start of what is drawn.
    """

    copies: int
    word_dropout: float = 0.0
    lowercase: float = 0.0
    typos: float = 0.0
    seed: int = 0

    def altered(self, record: Record, columns: Sequence[str], number: int, copy: int) -> Record:
        """Return a copy of a record.

        Args:
            record: The record.
            columns: The texts that differ, or `tokens`, whose tags go with their words.
            number: The record's place in its source.
            copy: The copy's number, from 0.

        Raises:
            DataError: It has neither such texts, nor words with a tag each.
        """
        rng = random.Random(f"{self.seed}:{number}:{copy}")
        fields = dict(record.fields)
        small = rng.random() < self.lowercase
        for column in columns:
            if column == TOKENS:
                fields |= self._words(record, rng, small)
            else:
                words = _WORDS.findall(record.text(column))
                fields[column] = "".join(words[at] for at in self._kept(words, rng, small))
        return Record(fields, record.place, record.columns_key)

    def _words(self, record: Record, rng: random.Random, small: bool) -> dict[str, Any]:
        tokens, tags = (record.fields.get(name) for name in (TOKENS, TAGS))
        if not isinstance(tokens, list) or not isinstance(tags, list) or len(tokens) != len(tags):
            raise DataError(
                f"{record.at}data.augment alters words, whose tags go with them: give tokens and tags, a tag for each,"
                " or leave it out"
            )
        words = [str(token) for token in tokens]
        kept = self._kept(words, rng, small)
        text = {"text": " ".join(words[at] for at in kept)} if "text" in record.fields else {}
        return {TOKENS: [words[at] for at in kept], TAGS: [tags[at] for at in kept], **text}

    def _kept(self, words: list[str], rng: random.Random, small: bool) -> list[int]:
        """The places of the words that stay, which are altered where they stand."""
        kept = []
        for at, word in enumerate(words):
            stays, mistyped = rng.random() >= self.word_dropout, rng.random() < self.typos
            if stays:
                kept.append(at)
            if mistyped:
                words[at] = _mistyped(word, rng)
            if small:
                words[at] = words[at].lower()
        return kept or list(range(len(words)))


class AugmentedExamples:
    """The examples of records, and of altered copies of each; an `ExampleMaker` around another.

    Args:
        maker: Makes examples of a record.
        augmentation: How copies differ.
        columns: What of a record does.
    """

    def __init__(self, maker: ExampleMaker, augmentation: Augmentation, columns: Sequence[str]):
        self.maker, self.augmentation, self.columns = maker, augmentation, tuple(columns)
        self.split_column, self.fewest_documents = maker.split_column, maker.fewest_documents

    @property
    def layout(self) -> RowLayout:
        """That of the maker."""
        return self.maker.layout

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of the maker, and how copies differ."""
        return {**self.maker.settings, "augmentation": [1, *asdict(self.augmentation).values()]}

    def keeps(self, record: Record) -> bool:
        """Return whether anything is made of a record."""
        return self.maker.keeps(record)

    def examples(self, records: Sequence[Record], numbers: Sequence[int]) -> Iterator[Example]:
        """Yield the examples of records, and then those of the first copies, and so on."""
        yield from self.maker.examples(records, numbers)
        for copy in range(self.augmentation.copies):
            altered = [
                self.augmentation.altered(record, self.columns, number, copy)
                for record, number in zip(records, numbers, strict=True)
            ]
            yield from self.maker.examples(altered, numbers)

    def packer(self) -> Packer:
        """Return that of the maker."""
        return self.maker.packer()


def _mistyped(word: str, rng: random.Random) -> str:
    """A word with a mistake between two of its letters; one of a single letter has room for none."""
    letters = [at for at, letter in enumerate(word) if letter.isalpha()]
    if len(letters) < 2:
        return word
    at, kind = rng.choice(letters[1:]), rng.randrange(3)
    if kind == 0:
        return word[:at] + word[at + 1 :]
    if kind == 1:
        return word[:at] + word[at] + word[at:]
    return word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :]
