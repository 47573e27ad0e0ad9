"""Where in a rendered chat stands what the assistant wrote."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tfllm.tokenizers.chat.marks import MarkedText, Span
from tfllm.tokenizers.chat.messages import Message
from tfllm.tokenizers.errors import TokenizerError


class AnswerFinder:
    """Finds answers by the marks in a rendered chat.

    Args:
        names: Of control tokens.
        ends: Of those that end a turn.
    """

    def __init__(self, names: Sequence[str], ends: Sequence[str]):
        self._ends = re.compile(_alternatives(ends)) if ends else None
        self._turn_end = re.compile(rf"\s*(?:{_alternatives(names)})") if names else None

    def find(self, chat: MarkedText, index: int, message: Message, before: str) -> Span:
        """The place of one answer.

        Args:
            chat: The rendered chat.
            index: Of the answer among its messages.
            message: The answer.
            before: The chat before it, rendered for an answer.

        Raises:
            TokenizerError: it cannot be found.
        """
        start = len(before) if chat.text.startswith(before) else chat.firsts.get(index)
        said = chat.lasts.get(index)
        content = message.get("content")
        if start is None or (
            said is None and (content or message.get("tool_calls")) and self._hidden(chat, start, index)
        ):
            raise TokenizerError(
                f"messages[{index}]: the chat template does not render this answer behind the chat before it, so"
                " its place is not known; mark answers in the template by {% generation %} … {% endgeneration %}"
            )
        end = max(start, said or 0)
        limit = min(
            (place for other, place in chat.firsts.items() if other > index and place >= end), default=None
        )
        limit = len(chat.text) if limit is None else limit
        if said is None or message.get("tool_calls"):
            return start, self._first_end(chat, end, limit) or end
        text = chat.text
        if isinstance(content, str):  # the template may keep the white space behind it
            blank = content[len(content.rstrip()) :]
            end += len(blank) if text.startswith(blank, end) else 0
        turn_end = None if self._turn_end is None else self._turn_end.match(text, end)
        return start, end if turn_end is None else turn_end.end()

    def _hidden(self, chat: MarkedText, start: int, index: int) -> bool:
        """Whether nothing tells where an answer ends."""
        limit = min((place for other, place in chat.firsts.items() if other > index), default=len(chat.text))
        return self._first_end(chat, start, limit) is None

    def _first_end(self, chat: MarkedText, start: int, limit: int) -> int | None:
        """Where the first token ends that ends a turn and is the template's own."""
        if self._ends is None:
            return None
        for found in self._ends.finditer(chat.text, start, limit):
            if chat.is_the_templates(*found.span()):
                return found.end()
        return None


def _alternatives(names: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
