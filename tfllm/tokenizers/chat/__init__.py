"""Chats: templates of strangers rendered within bounds, and the ids of what they render."""
