"""A tokenizer with more special tokens."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.files.folder import read_tokenizer
from tfllm.tokenizers.special_tokens import check_special_name
from tfllm.tokenizers.tokenizer import TOKENIZER_FILE, Tokenizer


def with_special_tokens(tokenizer: Tokenizer, names: Sequence[str]) -> Tokenizer:
    """The same tokenizer with special tokens behind its vocabulary; names that it has already stay as they are.

    Args:
        tokenizer: Any that can be saved.
        names: The new names, such as those of a chat template.

    Raises:
        TokenizerError: a name is empty, not valid Unicode, or that of an ordinary token; or the tokenizer takes none.
    """
    for name in names:
        check_special_name(name)
    new = [name for name in dict.fromkeys(names) if name not in tokenizer.special_tokens]
    if not new:
        return tokenizer
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        path = Path(folder) / TOKENIZER_FILE
        if not path.is_file():
            raise TokenizerError(
                f"special token {new[0]!r} cannot be added to a tokenizer of type {tokenizer.type}, which is not kept"
                f" in {TOKENIZER_FILE}; leave it out"
            )
        content = json.loads(path.read_text(encoding="utf-8"))
        content["added_tokens"] = [
            *(content.get("added_tokens") or []),
            *(
                {
                    "id": tokenizer.vocab_size + index,
                    "content": name,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": True,
                }
                for index, name in enumerate(new)
            ),
        ]
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        return read_tokenizer(folder)
