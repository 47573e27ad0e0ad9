"""Chats: templates of strangers rendered within bounds, and the ids of what they render."""

from tfllm.tokenizers.chat.encoding import encode_answers, encode_chat, encode_prompt
from tfllm.tokenizers.chat.template import ChatTemplate

__all__ = ["ChatTemplate", "encode_answers", "encode_chat", "encode_prompt"]
