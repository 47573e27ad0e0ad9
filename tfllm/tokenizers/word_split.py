r"""The ways in which byte-level BPE vocabularies split a text into words, before they merge bytes within a word.

Each is told apart by what its `tokenizer.json` says, and by a name:

- `gpt2` (Radford et al. 2019, encoder.py):
  `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
- `smollm`: every digit is a word; what stands between digits is split as by `gpt2`, as if it were a text.
- `llama3` (the expression published with Llama 3, after OpenAI's cl100k_base): contractions in either case, one
  character before letters joins them, three digits make a word, line breaks end one.
- `qwen2`: the same, but every digit is a word.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import tokenizers
from tokenizers import pre_tokenizers

_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclasses.dataclass(frozen=True)
class WordSplit:
    """One way to split.

    Args:
        name: As above.
        cl100k: Words are those of `llama3` and `qwen2`, not of `gpt2`.
        digits: Digits in a word at most; None is any number.
    """

    name: str
    cl100k: bool
    digits: int | None

    @property
    def own_digits(self) -> bool:
        """Whether numbers are what the library's `Digits` takes for them, not `\\p{N}`."""
        return not self.cl100k and self.digits is not None

    def pre_tokenizer(self) -> Any:
        """The same as a pre-tokenizer of the `tokenizers` library."""
        if self.cl100k:
            expression = _CL100K % ("" if self.digits == 1 else f"{{1,{self.digits}}}")
            split = pre_tokenizers.Split(tokenizers.Regex(expression), behavior="isolated")
            return pre_tokenizers.Sequence(
                [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
            )
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        if self.digits is None:
            return words
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])

    def expression(self, letter: str, number: str, space: str) -> str:
        """The same for Python's `re`, which has no `\\p{L}`; each class as it stands between brackets."""
        other = f"[^{letter}{number}{space}]"
        if self.cl100k:
            contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
            digits = f"[{number}]" if self.digits == 1 else f"[{number}]{{1,{self.digits}}}"
            words = rf"{contractions}|[^\r\n{letter}{number}]?[{letter}]+|{digits}| ?{other}+[\r\n]*|[{space}]*[\r\n]+"
            return rf"{words}|[{space}]+(?![^{space}])|[{space}]+"
        contractions = "'s|'t|'re|'ve|'m|'ll|'d"
        if self.digits is None:
            digits, ahead = rf" ?[{number}]+", rf"[^{space}]"
        else:  # a digit ends what stands before it, as the end of a text does
            digits, ahead = rf"[{number}]", rf"[^{space}{number}]"
        return rf"{contractions}| ?[{letter}]+|{digits}| ?{other}+|[{space}]+(?!{ahead})|[{space}]+"


GPT2 = WordSplit("gpt2", cl100k=False, digits=None)
SPLITS = {
    split.name: split
    for split in (
        GPT2,
        WordSplit("smollm", cl100k=False, digits=1),
        WordSplit("llama3", cl100k=True, digits=3),
        WordSplit("qwen2", cl100k=True, digits=1),
    )
}


def split_of_json(pre_tokenizer: Any) -> WordSplit | None:
    """The split that the `pre_tokenizer` of a `tokenizer.json` describes, or None."""
    found = _essence(pre_tokenizer)
    for split in SPLITS.values():
        library = tokenizers.Tokenizer(tokenizers.models.BPE())
        library.pre_tokenizer = split.pre_tokenizer()
        if found == _essence(_content(library)["pre_tokenizer"]):
            return split
    return None


def _content(library: tokenizers.Tokenizer) -> dict[str, Any]:
    return json.loads(library.to_str())


def _essence(part: Any) -> Any:
    """What of a pre-tokenizer decides the words; `trim_offsets`, for one, does not."""
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if kind == "Sequence":
        steps = [_essence(step) for step in part.get("pretokenizers") or []]
        return steps[0] if len(steps) == 1 else steps
    if kind == "ByteLevel":
        return kind, part.get("add_prefix_space", True), part.get("use_regex", True)
    if kind == "Digits":
        return kind, part.get("individual_digits", False)
    if kind == "Split":
        return kind, part.get("pattern"), str(part.get("behavior")).lower(), part.get("invert", False)
    return part
