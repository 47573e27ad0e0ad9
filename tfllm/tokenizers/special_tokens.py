"""Which special tokens a tokenizer has, and which of them begin, end and pad."""

from collections.abc import Sequence

from tfllm.tokenizers.errors import TokenizerError

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
# Where a file does not say which special token plays a part, GPT-2's plays all three.
END_OF_TEXT = "<|endoftext|>"


def numbered_special_tokens(
    first_id: int, bos_token: str, eos_token: str, pad_token: str, extra_special_tokens: Sequence[str]
) -> dict[str, int]:
    """Give ids from `first_id` on to the special tokens, in this order; equal names share one id.

    Raises:
        TokenizerError: a name is empty or not valid Unicode.
    """
    names = dict.fromkeys([bos_token, eos_token, pad_token, *extra_special_tokens])
    for name in names:
        check_special_name(name)
    return {name: first_id + i for i, name in enumerate(names)}


def check_special_name(name: str) -> None:
    """Raise TokenizerError unless `name` can name a special token."""
    if not isinstance(name, str) or not name or any(0xD800 <= ord(c) < 0xE000 for c in name):
        raise TokenizerError(f"special token {name!r} must be non-empty valid text; name it like '<|bos|>'")
