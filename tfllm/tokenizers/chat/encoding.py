"""Token ids of chats: only a template makes control tokens, never what a message says."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import Any

from tfllm.tokenizers.chat.marks import MarkedText, Span
from tfllm.tokenizers.chat.messages import Message
from tfllm.tokenizers.chat.template import ChatTemplate, control_names
from tfllm.tokenizers.tokenizer import Tokenizer


def encode_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], *, chat_template: str | None = None, **arguments: Any
) -> tuple[list[int], list[bool]]:
    """Token ids of a chat, and which of them the assistant wrote.

    Only the template makes control tokens: where a message writes the name of one, it stays text.

    Args:
        tokenizer: A tokenizer with a chat template.
        messages: As in `ChatTemplate.render`.
        chat_template: Name of the template, where the tokenizer has several.
        arguments: As in `ChatTemplate.render_with_answers`.

    Returns:
        The ids, and as many booleans: true where the token stands within an answer.

    Raises:
        TokenizerError: as `ChatTemplate.render_with_answers`.
    """
    ids, answers = encode_answers(tokenizer, messages, chat_template=chat_template, **arguments)
    return ids, [answer >= 0 for answer in answers]


def encode_answers(
    tokenizer: Tokenizer, messages: Sequence[Message], *, chat_template: str | None = None, **arguments: Any
) -> tuple[list[int], list[int]]:
    """Token ids of a chat, and for each which answer it is of, counted from 0, or -1; arguments as of `encode_chat`."""
    template = _of(tokenizer, chat_template, arguments)
    marked, spans = template.marked(messages, answers=True, **arguments)
    ids, offsets = _encode(tokenizer, marked)
    starts, ends = [start for start, _ in spans], [end for _, end in spans]
    answers = []
    for first, last in offsets:
        at = bisect.bisect_right(ends, first)
        answers.append(at if at < len(spans) and starts[at] < last else -1)
    return ids, answers


def encode_prompt(
    tokenizer: Tokenizer, messages: Sequence[Message], *, chat_template: str | None = None, **arguments: Any
) -> list[int]:
    """Token ids of a chat up to where the assistant's answer begins; arguments as those of `encode_chat`."""
    arguments.setdefault("add_generation_prompt", True)
    return _encode(tokenizer, _of(tokenizer, chat_template, arguments).marked(messages, **arguments)[0])[0]


def _of(tokenizer: Tokenizer, name: str | None, arguments: Mapping[str, Any]) -> ChatTemplate:
    return ChatTemplate.of(
        tokenizer, name, tools=arguments.get("tools"), documents=arguments.get("documents")
    )


def _encode(tokenizer: Tokenizer, chat: MarkedText) -> tuple[list[int], list[Span]]:
    """Ids and their places; control tokens only where the template wrote them."""
    names = control_names(tokenizer)
    known = {**{token.content: token.id for token in tokenizer.added_tokens}, **tokenizer.special_tokens}
    control = {known[name] for name in names} - {tokenizer.unk_id}
    texts: list[Span] = []
    while True:
        ids, places = _encode_around(tokenizer, chat.text, texts, control)
        wrong = [
            place
            for token_id, place in zip(ids, places, strict=True)
            if token_id in control and place not in texts and not chat.is_the_templates(*place)
        ]
        if not wrong:
            return ids, places
        texts = sorted({*texts, *wrong})


def _encode_around(
    tokenizer: Tokenizer, text: str, texts: Sequence[Span], control: set[int]
) -> tuple[list[int], list[Span]]:
    """Encodes with special tokens, but for the places that are text."""
    ids: list[int] = []
    places: list[Span] = []
    start = 0
    for first, last in [*texts, (len(text), len(text))]:
        if start < first:
            found, offsets = (
                _behind_others(tokenizer, text[start:first])
                if start
                else tokenizer.encode_with_offsets(text[:first])
            )
            ids += found
            places += [(start + a, start + b) for a, b in offsets]
        if first < last:
            found = _as_text(tokenizer, text[first:last], control, at_start=first == 0)
            ids += found
            places += [(first, last)] * len(found)
        start = last
    return ids, places


def _behind_others(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[Span]]:
    """Encodes what does not stand at the start of a text, where SentencePiece writes a blank."""
    line = tokenizer.encode("\n")
    ids, offsets = tokenizer.encode_with_offsets("\n" + text)
    if line and ids[: len(line)] == line:
        return ids[len(line) :], [(max(0, a - 1), max(0, b - 1)) for a, b in offsets[len(line) :]]
    return tokenizer.encode_with_offsets(text)


def _as_text(tokenizer: Tokenizer, text: str, control: set[int], *, at_start: bool = False) -> list[int]:
    """Encodes the name of a control token as the characters that it is."""
    line = [] if at_start else tokenizer.encode("\n")
    ids = tokenizer.encode("\n" + text) if line else tokenizer.encode(text)
    if line and ids[: len(line)] == line:
        ids = ids[len(line) :]
    elif line:
        ids = tokenizer.encode(text)
    if not control.intersection(ids) or len(text) == 1:
        return ids
    # An ordinary added token, which is cut out of every text.
    return [i for character in text for i in _as_text(tokenizer, character, set(), at_start=at_start)]
