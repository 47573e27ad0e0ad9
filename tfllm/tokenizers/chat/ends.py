"""The tokens by which an assistant ends its turn."""

from __future__ import annotations

from tfllm.tokenizers.chat.encoding import encode_answers
from tfllm.tokenizers.chat.template import control_names
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.tokenizer import Tokenizer

EXAMPLE = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},  # whose mark may be what ends a turn
    {"role": "assistant", "content": "d"},
]


def turn_ends(tokenizer: Tokenizer) -> list[str]:
    """Return the control tokens that stand at the end of an answer, by name; none where the template writes none.

    An example is rendered; a template that refuses it writes none either.
    """
    try:
        ids, answers = encode_answers(tokenizer, EXAMPLE)
    except TokenizerError:
        return []
    last = {answer: token_id for token_id, answer in zip(ids, answers, strict=True) if answer >= 0}
    known = {**{token.content: token.id for token in tokenizer.added_tokens}, **tokenizer.special_tokens}
    return [name for name in control_names(tokenizer) if known[name] in last.values()]
