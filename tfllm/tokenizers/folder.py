"""Reading a saved tokenizer back from its folder."""

from __future__ import annotations

from pathlib import Path

from tfllm.tokenizers.byte import ByteTokenizer
from tfllm.tokenizers.byte_bpe import ByteBPETokenizer
from tfllm.tokenizers.json_file import read_json_object
from tfllm.tokenizers.tokenizer import CONFIG_FILE, Tokenizer, TokenizerError

TOKENIZERS: dict[str, type[Tokenizer]] = {cls.type: cls for cls in (ByteTokenizer, ByteBPETokenizer)}


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Read the tokenizer that `Tokenizer.save` wrote into `folder`.

    Raises:
        TokenizerError: a file is missing or corrupt, or names a type of tokenizer that is not known.
    """
    path = Path(folder) / CONFIG_FILE
    saved_config = read_json_object(path, mend="write the folder with Tokenizer.save")
    kind = saved_config.get("type")
    if kind not in TOKENIZERS:
        raise TokenizerError(
            f"{path}: type={kind!r} must be one of {sorted(TOKENIZERS)}; a folder that tfllm did not write"
            " is read with ByteBPETokenizer.from_file(folder / 'tokenizer.json')"
        )
    missing = {"bos_token", "eos_token", "pad_token", "special_tokens"} - set(saved_config)
    if missing or not isinstance(saved_config["special_tokens"], dict):
        raise TokenizerError(
            f"{path}: the keys bos_token, eos_token, pad_token and special_tokens (a mapping) must stand"
            f" there; missing or malformed: {sorted(missing) or ['special_tokens']}; write the folder again"
            " with Tokenizer.save"
        )
    return TOKENIZERS[kind].load(folder, saved_config)
