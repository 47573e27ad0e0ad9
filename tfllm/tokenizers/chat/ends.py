"""The token by which an assistant ends its turn."""

from __future__ import annotations

from tfllm.tokenizers.chat.encoding import encode_answers
from tfllm.tokenizers.chat.template import control_names
from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.tokenizer import Tokenizer

_EXAMPLE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def turn_ends(tokenizer: Tokenizer) -> list[str]:
    """Return the control token that stands at the end of an answer, by name.

    None where the template writes none there, or the token that ends every text.
    """
    try:
        ids, answers = encode_answers(tokenizer, _EXAMPLE)
    except TokenizerError:
        return []
    said = [token_id for token_id, answer in zip(ids, answers, strict=True) if answer >= 0]
    known = {**{token.content: token.id for token in tokenizer.added_tokens}, **tokenizer.special_tokens}
    last = said[-1] if said and said[-1] != tokenizer.eos_id else None
    return [name for name in control_names(tokenizer) if known[name] == last]
