"""What examples of conversations have in common, whatever is learned of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfllm.data.conversation import MESSAGES, Conversation
from tfllm.data.errors import DataError
from tfllm.data.examples import Packer, WholeSegments
from tfllm.data.layout import RowLayout
from tfllm.data.record import Record
from tfllm.tokenizers.chat import encode_answers
from tfllm.tokenizers.errors import TokenizerError


class Rendered:
    """Conversations, each rendered through the chat template, whole.

    Args:
        tokenizer: A tokenizer with a chat template.
        seq_len: Tokens of one conversation.
        packing: Several examples to a row.
        on_too_long: cut_oldest_turns leaves out what was said first, but for the system's message; drop the record;
            error refuses it.
        layout: Of the rows.
        kind: The name and version of the examples that are made.
    """

    split_column = MESSAGES
    fewest_documents = 1

    def __init__(
        self, tokenizer: Any, *, seq_len: int, packing: bool, on_too_long: str, layout: RowLayout, kind: str
    ):
        self.tokenizer, self.seq_len, self.packing = tokenizer, seq_len, packing
        self.on_too_long, self.layout, self._kind = on_too_long, layout, kind

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the examples depend on, beside records and tokenizer."""
        return {
            "examples": self._kind,
            "chat_template": self.tokenizer.chat_template,
            "roles": dict(self.tokenizer.shown_roles),
            "seq_len": self.seq_len,
            "packing": self.packing,
            "on_too_long": self.on_too_long,
        }

    def keeps(self, record: Record) -> bool:
        """Return that it is to be looked at."""
        del record
        return True

    def packer(self) -> Packer:
        """Return what puts examples into rows."""
        return WholeSegments(self.layout, packing=self.packing)

    def fits(self, length: int) -> bool:
        """Return whether so many tokens of a conversation find their places: the last is a target only."""
        return length <= self.seq_len + 1

    def rendered(self, record: Record, conversation: Conversation) -> tuple[list[int], list[int]]:
        """Return the ids of a conversation, and of each the number of the answer that it belongs to, or -1.

        Raises:
            DataError: it is not for this template.
        """
        tools = list(conversation.tools) or None
        try:
            return encode_answers(self.tokenizer, conversation.messages, tools=tools)
        except TokenizerError as error:
            raise DataError(f"{record.at}{error}") from None


def size_of(conversation: Conversation) -> int:
    """Return the bytes of what is said in it."""
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in conversation.texts)
