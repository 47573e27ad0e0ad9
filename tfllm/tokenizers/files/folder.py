"""Reading the tokenizer of a folder: a checkpoint's, in Hugging Face's manner, or one that `Tokenizer.save` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfllm.tokenizers.errors import NoTokenizerError, TokenizerError
from tfllm.tokenizers.files.json_file import read_json_object
from tfllm.tokenizers.files.marian_files import marian_of_files
from tfllm.tokenizers.files.sentencepiece_files import MODEL_FILES, XLMR_FILE, sentencepiece_of_file
from tfllm.tokenizers.files.tokenizer_json import tokenizer_of_json
from tfllm.tokenizers.files.vocab_files import bpe_of_files, wordpiece_of_file
from tfllm.tokenizers.marian import SOURCE_FILE, TARGET_FILE
from tfllm.tokenizers.roles import given_roles, unset_roles
from tfllm.tokenizers.sentencepiece import SentencePieceTokenizer
from tfllm.tokenizers.tokenizer import CONFIG_FILE, TOKENIZER_FILE, Tokenizer

_MEND = "download it again"
_LONGEST, _LONGEST_REASON = 1500, 300
_SPECIAL_FILE = "special_tokens_map.json"
_TEMPLATE_FILE, _TEMPLATE_FOLDER = "chat_template.jinja", "additional_chat_templates"
_PROCESSOR_FILE = "chat_template.json"


def read_tokenizer(folder: str | Path) -> Tokenizer:
    """Read a tokenizer from `tokenizer.json`, or else `tokenizer.model`, `source.spm` with `target.spm` and
    `vocab.json`, `vocab.txt`, or `vocab.json` and `merges.txt`.

    Names of tokens come from `tokenizer_config.json` and `special_tokens_map.json` where there are such; a role
    that they leave open goes to the token that usually plays it, or that stands in (`unset_roles`). So do chat
    templates, also from `chat_template.jinja`, `additional_chat_templates` and `chat_template.json`.

    Raises:
        TokenizerError: no such file is there, or one is corrupt, or would not be encoded with as its own library does.
    """
    try:
        return _read_settings(Path(folder))
    except TokenizerError as error:
        if len(str(error)) <= _LONGEST:
            raise
        raise TokenizerError(f"{str(error)[:_LONGEST]}…") from None  # it quotes a part of the file
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"[:_LONGEST_REASON]
        raise TokenizerError(
            f"{folder}: its tokenizer cannot be read ({reason}); download it again, or, if others read"
            " the same file, report this"
        ) from error


def _read_settings(folder: Path) -> Tokenizer:
    configs = _optional(folder / CONFIG_FILE), _optional(folder / _SPECIAL_FILE)
    roles = given_roles(*configs)
    tokenizer = _read(folder, configs[0], roles)
    own = isinstance(tokenizer, SentencePieceTokenizer)
    tokenizer.unset_roles = unset_roles(tokenizer.roles, roles, *configs, own=own)
    return tokenizer


def _read(folder: Path, config: dict[str, Any], roles: dict[str, str]) -> Tokenizer:
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
    raise NoTokenizerError(
        f"{folder} holds no tokenizer: it must have tokenizer.json, tokenizer.model, vocab.txt, or vocab.json and"
        " merges.txt, or Marian's source.spm, target.spm and vocab.json; give the folder of a whole checkpoint"
    )


def _optional(path: Path) -> dict[str, Any]:
    return read_json_object(path, mend=_MEND) if path.is_file() else {}


def _chat_template(folder: Path, config: dict[str, Any]) -> str | dict[str, str] | None:
    """One template, or several by name; files of their own go before what the config says, as in transformers."""
    named = {path.stem: _text(path) for path in sorted((folder / _TEMPLATE_FOLDER).glob("*.jinja"))}
    if (folder / _TEMPLATE_FILE).is_file():
        named["default"] = _text(folder / _TEMPLATE_FILE)
    if named:
        return named["default"] if named.keys() == {"default"} else named
    where, found = folder / CONFIG_FILE, config.get("chat_template")
    if found is None:  # beside processors of images, of which the text part is a chat model
        where = folder / _PROCESSOR_FILE
        found = _optional(where).get("chat_template")
    if isinstance(found, list):
        found = {part.get("name"): part.get("template") for part in found if isinstance(part, dict)}
    if (
        isinstance(found, dict)
        and found
        and all(isinstance(each, str) for pair in found.items() for each in pair)
    ):
        return found["default"] if found.keys() == {"default"} else found
    if found is not None and not isinstance(found, str):
        raise TokenizerError(
            f"{where}: chat_template={found!r} must be a text, or a list of names and templates; {_MEND}"
        )
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path}: must be readable UTF-8 ({error}); {_MEND}") from None
