"""Reading the tokenizer of a folder: a checkpoint's, in Hugging Face's manner, or one that `Tokenizer.save` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.json_file import read_json_object
from tfllm.tokenizers.marian import SOURCE_FILE, TARGET_FILE, marian_of_files
from tfllm.tokenizers.roles import given_roles
from tfllm.tokenizers.sentencepiece_files import MODEL_FILES, XLMR_FILE, sentencepiece_of_file
from tfllm.tokenizers.tokenizer import CONFIG_FILE, TOKENIZER_FILE, Tokenizer
from tfllm.tokenizers.tokenizer_json import tokenizer_of_json
from tfllm.tokenizers.vocab_files import bpe_of_files, wordpiece_of_file

_MEND = "download it again"
_SPECIAL_FILE, _TEMPLATE_FILE = "special_tokens_map.json", "chat_template.jinja"


def read_tokenizer(folder: str | Path) -> Tokenizer:
    """Read a tokenizer from `tokenizer.json`, or else `tokenizer.model`, `source.spm` with `target.spm` and
    `vocab.json`, `vocab.txt`, or `vocab.json` and `merges.txt`.

    Names of tokens come from `tokenizer_config.json` and `special_tokens_map.json` where there are such; a role
    that they leave open goes to the token that usually plays it. So does the chat template, also from
    `chat_template.jinja`.

    Raises:
        TokenizerError: no such file is there, or one is corrupt, or would not be encoded with as its own library does.
    """
    folder = Path(folder)
    config = _optional(folder / CONFIG_FILE)
    roles = given_roles(config, _optional(folder / _SPECIAL_FILE))
    conventions = {"chat_template": _chat_template(folder, config)}
    if (folder / TOKENIZER_FILE).is_file():
        path = folder / TOKENIZER_FILE
        return tokenizer_of_json(path, read_json_object(path, mend=_MEND), config, roles, **conventions)
    for name in (*MODEL_FILES, XLMR_FILE):
        if (folder / name).is_file():
            listed = _optional(folder / "added_tokens.json")
            return sentencepiece_of_file(folder / name, config, listed, roles, **conventions)
    if (folder / SOURCE_FILE).is_file() or (folder / TARGET_FILE).is_file():
        return marian_of_files(folder, config, roles, **conventions)
    if (folder / "vocab.txt").is_file():
        return wordpiece_of_file(
            folder, config, _optional(folder / "added_tokens.json"), roles, **conventions
        )
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return bpe_of_files(folder, config, _optional(folder / "added_tokens.json"), roles, **conventions)
    raise TokenizerError(
        f"{folder} holds no tokenizer: it must have tokenizer.json, tokenizer.model, vocab.txt, or vocab.json and"
        " merges.txt, or Marian's source.spm, target.spm and vocab.json; give the folder of a whole checkpoint"
    )


def _optional(path: Path) -> dict[str, Any]:
    return read_json_object(path, mend=_MEND) if path.is_file() else {}


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    path = folder / _TEMPLATE_FILE
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(f"{path}: must be readable UTF-8 ({error}); {_MEND}") from None
    found = config.get("chat_template")
    if isinstance(found, list):  # several, each with a name
        named = {part.get("name"): part.get("template") for part in found if isinstance(part, dict)}
        found = named.get("default")
    if found is not None and not isinstance(found, str):
        raise TokenizerError(
            f"{folder / CONFIG_FILE}: chat_template={found!r} must be a text, or a list of names and templates; {_MEND}"
        )
    return found
