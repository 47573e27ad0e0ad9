"""What a record says of its words: a tag each, or which characters are what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tfllm.data.errors import DataError
from tfllm.data.record import TEXT, TOKENS, Record
from tfllm.tasks.examples.words import Place, joined, word_places
from tfllm.tasks.tags import Span, iob2
from tfllm.tokenizers.repair import repair_text

TAGS, SPANS = "tags", "spans"
_KEYS = ("start", "end", "label")
_SHOWN = 60  # characters of a text


@dataclass(frozen=True, slots=True)
class TaggedWords:
    """Words in a text, and their tags.

    Attributes:
        text: The text, valid Unicode.
        places: Where each word stands.
        tags: The tag of each.
    """

    text: str
    places: list[Place]
    tags: list[str]


def tagged_record(record: Record, tag_names: Sequence[str] = ()) -> TaggedWords:
    """Return the words of a record and their tags.

    A record with `tokens` has a tag for each in `tags`. Another has `text` and `spans`: of each the first character,
    the one behind the last, and a label, as `{start, end, label}` or as a list of the three; a word that a span touches
    is in it.

    Args:
        record: The record.
        tag_names: Names of tags that are numbers.

    Raises:
        DataError: It says something else; the message names the place.
    """
    if SPANS in record.fields and TAGS not in record.fields:
        return _of_spans(record)
    if TAGS not in record.fields:
        there = ", ".join(map(repr, list(record.fields)[:20]))
        example = (
            f"; say which they are, for example {record.columns_key}: {{tags: ner}}"
            if record.columns_key
            else ""
        )
        raise DataError(
            f"{record.at}there must be columns tokens and tags, or text and spans; the columns are {there}{example}"
        )
    tokens, tags = record.value(TOKENS), record.value(TAGS)
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise DataError(f"{record.at}'tokens' must be a list of words, not {tokens!r}; name another column")
    if not isinstance(tags, list):
        raise DataError(
            f"{record.at}'tags' must be a list, a tag for each token, not {tags!r}; name another column"
        )
    if len(tags) != len(tokens):
        raise DataError(
            f"{record.at}has {len(tokens)} tokens and {len(tags)} tags, from {' '.join(tokens)[:_SHOWN]!r} on; give"
            " each token one"
        )
    text, places = joined(tokens)
    return TaggedWords(text, places, [_tag(record, tag, tag_names) for tag in tags])


def _tag(record: Record, tag: Any, names: Sequence[str]) -> str:
    if isinstance(tag, str) and tag.strip():
        return tag.strip()
    if isinstance(tag, int) and not isinstance(tag, bool):
        if 0 <= tag < len(names):
            return names[tag]
        rule = f"and task.tag_names names {len(names)}" if names else "whose name nobody knows"
        raise DataError(
            f"{record.at}the tag {tag} is a number, {rule}; write task.tag_names: [O, B-…, I-…], in the order of the"
            " numbers"
        )
    raise DataError(
        f"{record.at}'tags' must hold the name of a tag for each token, not {tag!r}; mend the record"
    )


def _of_spans(record: Record) -> TaggedWords:
    text = repair_text(record.text(TEXT))
    places = word_places(text)
    values = record.value(SPANS)
    if not isinstance(values, list):
        raise DataError(
            f"{record.at}'spans' must be a list of {{start, end, label}}, not {values!r}; name another column"
        )
    spans = sorted(_span(record, value, text) for value in values)
    for one, other in pairwise(spans):
        if other[0] < one[1]:
            raise DataError(
                f"{record.at}the spans {list(one)} and {list(other)} overlap, and a word has one tag; leave one of both"
                " out"
            )
    words = [_words_of(record, span, places, text) for span in spans]
    for one, other in pairwise(words):
        if other[0] < one[1]:
            start, stop = places[other[0]]
            raise DataError(
                f"{record.at}two spans share the word {text[start:stop]!r}, and a word has one tag; leave one out"
            )
    return TaggedWords(text, places, iob2(words, len(places)))


def _span(record: Record, value: Any, text: str) -> Span:
    if isinstance(value, Mapping) and all(key in value for key in _KEYS):
        value = [value[key] for key in _KEYS]
    if (
        not isinstance(value, (list, tuple))
        or len(value) != 3
        or not all(isinstance(place, int) and not isinstance(place, bool) for place in value[:2])
        or not isinstance(value[2], str)
        or not value[2].strip()
    ):
        raise DataError(
            f"{record.at}a span must be {{start, end, label}}, two numbers and a name, not {value!r}; mend the record"
        )
    start, stop, label = value
    if not 0 <= start < stop <= len(text):
        raise DataError(
            f"{record.at}the span {[start, stop, label]} must begin and end in order within the text's {len(text)}"
            " characters; mend the record"
        )
    return start, stop, label.strip()


def _words_of(record: Record, span: Span, places: Sequence[Place], text: str) -> Span:
    """The words that a span of characters touches."""
    start, stop, label = span
    touched = [index for index, (first, last) in enumerate(places) if first < stop and last > start]
    if not touched:
        raise DataError(
            f"{record.at}the span {list(span)} holds no word but {text[start:stop][:_SHOWN]!r}; leave it out"
        )
    return touched[0], touched[-1] + 1, label
