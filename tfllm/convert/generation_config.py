"""`generation_config.json`: how text is generated from a checkpoint, read and written."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfllm.convert.config_reader import shown
from tfllm.convert.errors import ConvertError
from tfllm.json_text import read_json

GENERATION_FILE = "generation_config.json"
# What transformers samples with where a checkpoint says that it is to be sampled from, and no more.
_SAMPLED = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}
# As in transformers, the likeliest token is taken where nobody says to sample.
_LIKELIEST = {"temperature": 0.0, "top_p": 1.0}
_ALWAYS = ("max_new_tokens", "repetition_penalty")
# What the file says besides: of tokens, of how it came to be, or what is known from elsewhere.
_ABOUT = (
    *("_from_model_config", "transformers_version", "use_cache", "cache_implementation", "do_sample"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
)
_NO_EFFECT: tuple[Any, ...] = (None, False, 0, 1, 1.0, [], {})
_MOST_NOTES, _LONGEST_KEY = 50, 200


class GenerationFile:
    """What the file of a checkpoint says; of one without it, nothing.

    Args:
        folder: The checkpoint's.

    Raises:
        ConvertError: when the file is damaged.
    """

    def __init__(self, folder: Path):
        self.path = folder / GENERATION_FILE
        self._says = _mapping(self.path) if self.path.is_file() else {}
        for name in (*_SAMPLED, *_ALWAYS):
            value = self._says.get(name)
            if value is not None and (type(value) not in (int, float) or not abs(value) < math.inf):
                raise ConvertError(f"{self.path}: {name}={shown(value)} must be a number")

    def section(self) -> dict[str, Any]:
        """The keys of a `generation` section that it amounts to; which tokens end a text it says by id."""
        sampled = bool(self._says.get("do_sample"))
        section: dict[str, Any] = dict(_SAMPLED if sampled else _LIKELIEST)
        for name in (*(_SAMPLED if sampled else ()), *_ALWAYS):
            if self._says.get(name) is not None:
                section[name] = self._says[name]
        return section

    def end_ids(self, vocab_size: int) -> list[int] | None:
        """Ids of the tokens that end a text; None where it does not say.

        Raises:
            ConvertError: when it gives what is no id of the vocabulary.
        """
        return end_ids(self.path, self._says, vocab_size)

    def notes(self) -> list[str]:
        """What was not taken over, and why."""
        known = (*_SAMPLED, *_ALWAYS, *_ABOUT)
        left = {k: v for k, v in self._says.items() if k not in known and v not in _NO_EFFECT}
        words = "concerns generation and is not implemented; it was left aside"
        return [
            f"{self.path.name}: {k[:_LONGEST_KEY]}={shown(v)} {words}"
            for k, v in [*left.items()][:_MOST_NOTES]
        ]


def write_generation_file(
    folder: Path,
    section: Mapping[str, Any],
    *,
    bos_id: int | None,
    end_ids: Collection[int],
    pad_id: int | None,
    decoder_start_id: int | None = None,
) -> None:
    """Writes the file that `GenerationFile` reads.

    Args:
        folder: The checkpoint's.
        section: The keys of the `generation` section.
        bos_id: The token that begins a text, if one does.
        end_ids: Those that end one.
        pad_id: The token that fills rows up.
        decoder_start_id: What an encoder-decoder's answer begins with.
    """
    ends, sampled = list(dict.fromkeys(end_ids)), section["temperature"] > 0
    says = {
        "bos_token_id": bos_id,
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": pad_id,
        **({} if decoder_start_id is None else {"decoder_start_token_id": decoder_start_id}),
        **{name: section[name] for name in _ALWAYS},
        "do_sample": sampled,
        **({name: section[name] for name in _SAMPLED} if sampled else {}),
    }
    (folder / GENERATION_FILE).write_text(json.dumps(says, indent=2) + "\n", encoding="utf-8")


def end_ids(where: object, says: Mapping[str, Any], vocab_size: int) -> list[int] | None:
    """The ids under `eos_token_id` of this file or of an older `config.json`: one, or a list; None where there is none.

    Raises:
        ConvertError: when it holds what is no id of the vocabulary.
    """
    value = says.get("eos_token_id")
    if value is None:
        return None
    ids: Sequence[Any] = value if isinstance(value, list) else [value]
    for each in ids:
        if isinstance(each, bool) or not isinstance(each, int) or not 0 <= each < vocab_size:
            raise ConvertError(
                f"{where}: eos_token_id={shown(value)} must be an id from 0 to {vocab_size - 1}, or a list of such;"
                " mend the file, or leave the key out"
            )
    return list(dict.fromkeys(ids))


def _mapping(path: Path) -> dict[str, Any]:
    try:
        says = read_json(path)
    except (OSError, ValueError) as error:
        raise ConvertError(f"{path} is not a JSON file ({error}); download it again") from None
    if not isinstance(says, dict):
        raise ConvertError(f"{path} must hold a mapping, not {type(says).__name__}; download it again")
    return says
