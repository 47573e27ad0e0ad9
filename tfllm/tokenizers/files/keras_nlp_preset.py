"""The tokenizer of a KerasHub preset."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tfllm.tokenizers.errors import TokenizerError
from tfllm.tokenizers.files.folder import read_tokenizer
from tfllm.tokenizers.tokenizer import CONFIG_FILE, Tokenizer

# Classes of KerasHub whose vocabularies are split as those of transformers' classes of the same name. KerasHub splits
# every byte-level BPE as GPT-2 does, also Llama 3's and Qwen's, which were trained otherwise.
_CLASSES = (
    *("GPT2Tokenizer", "OPTTokenizer", "RobertaTokenizer", "BartTokenizer"),
    *("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer"),
    *(
        "LlamaTokenizer",
        "MistralTokenizer",
        "MixtralTokenizer",
        "GemmaTokenizer",
        "Gemma3Tokenizer",
        "T5Tokenizer",
    ),
)
_FILES = {
    "vocabulary.json": "vocab.json",
    "merges.txt": "merges.txt",
    "vocabulary.txt": "vocab.txt",
    "vocabulary.spm": "tokenizer.model",
}
_ROLES = {
    "bos_token": "start_token",
    "eos_token": "end_token",
    "pad_token": "pad_token",
    "cls_token": "cls_token",
    "sep_token": "sep_token",
    "mask_token": "mask_token",
    "unk_token": "oov_token",
}


def read_keras_nlp_tokenizer(preset: str) -> Tokenizer:
    """Read the tokenizer of a preset of KerasHub (`keras_nlp`).

    Args:
        preset: its name, a handle that KerasHub knows, or its folder.

    Raises:
        TokenizerError: there is no such preset, it has no tokenizer, or one of a class that is not known.
    """
    import keras_nlp

    try:
        theirs = keras_nlp.models.Tokenizer.from_preset(preset)
    except Exception as error:  # whatever a download may raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TokenizerError(
            f"{preset}: the preset's tokenizer cannot be loaded ({reason}); without a network, give the folder of a"
            " whole preset"
        ) from None
    kind = type(theirs).__name__
    if kind not in _CLASSES:
        raise TokenizerError(
            f"{preset}: {kind} must be one of {', '.join(_CLASSES)}; take the model's checkpoint in Hugging Face's"
            " format"
        )
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_to_preset(folder)
        for written in Path(folder).rglob("*"):
            if written.name in _FILES and written.is_file():
                shutil.move(str(written), Path(folder) / _FILES[written.name])
        (Path(folder) / "tokenizer.json").unlink()  # KerasHub's own, which says other things
        (Path(folder) / CONFIG_FILE).write_text(json.dumps(_config(theirs, kind)), encoding="utf-8")
        return read_tokenizer(folder)


def _config(theirs: Any, kind: str) -> dict[str, Any]:
    names = {role: getattr(theirs, attribute, None) for role, attribute in _ROLES.items()}
    config: dict[str, Any] = {role: name for role, name in names.items() if isinstance(name, str) and name}
    if hasattr(theirs, "lowercase"):
        config["do_lower_case"] = bool(theirs.lowercase)
    if getattr(theirs, "add_prefix_space", False):
        config["add_prefix_space"] = True
    return {"tokenizer_class": kind, **config}
