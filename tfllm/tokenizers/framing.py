"""What a checkpoint puts around a text: the ids before it, after it, and between two of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tfllm.tokenizers.errors import TokenizerError

FRAMES = ("bos", "bos_eos", "eos")

_KNOWN = "TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel or a Sequence of them"


@dataclasses.dataclass(frozen=True)
class Framing:
    """The ids around texts.

    Args:
        prefix: Before a text, or the first of two.
        suffix: After a text, or the second of two.
        separator: Between two texts.
        processor: The `post_processor` of the `tokenizer.json` that says so; None is none.
    """

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    separator: tuple[int, ...] = ()
    processor: Mapping[str, Any] | None = None

    def to_json(self, name_of: Mapping[int, str]) -> Mapping[str, Any] | None:
        """The same as the `post_processor` of a `tokenizer.json`; `name_of` has the name of each id."""
        if self.processor is not None or not (self.prefix or self.suffix or self.separator):
            return self.processor
        before, between, after = (
            [{"SpecialToken": {"id": name_of[i], "type_id": kind}} for i in ids]
            for ids, kind in ((self.prefix, 0), (self.separator, 0), (self.suffix, 0))
        )
        first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
        used = dict.fromkeys((*self.prefix, *self.separator, *self.suffix))
        tokens = {name_of[i]: {"id": name_of[i], "ids": [i], "tokens": [name_of[i]]} for i in used}
        return {
            "type": "TemplateProcessing",
            "single": [*before, first, *after],
            "pair": [*before, first, *between, second, *after],
            "special_tokens": tokens,
        }


def framing_of(frame: str, *, bos: int, eos: int) -> Framing:
    """Return what a tokenizer that is learned here puts around a text.

    Args:
        frame: One of `FRAMES`: `bos` before a text (decoders), `bos_eos` around it (encoders, as [CLS] and [SEP]), or
            `eos` behind it (encoder-decoders).
        bos: The token that begins a text.
        eos: The token that ends one, and stands between two.
    """
    return {
        "bos": Framing((bos,), (), ()),
        "bos_eos": Framing((bos,), (eos,), (eos,)),
        "eos": Framing((), (eos,), (eos,)),
    }[frame]


def read_framing(where: object, processor: Any) -> Framing:
    """Read the `post_processor` of a `tokenizer.json`.

    Raises:
        TokenizerError: it is of a kind that is not known, or malformed.
    """
    if processor is None:
        return Framing()
    try:
        return dataclasses.replace(_framing(where, processor), processor=processor)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise TokenizerError(
            f"{where}: post_processor={processor!r} must be {_KNOWN} ({error!r}); write the file again"
        ) from None


def _framing(where: object, processor: Mapping[str, Any]) -> Framing:
    kind = processor["type"]
    if kind == "ByteLevel":  # only offsets
        return Framing()
    if kind == "Sequence":
        parts = [_framing(where, part) for part in processor["processors"]]
        framing = [part for part in parts if part != Framing()]
        if len(framing) > 1:
            raise TokenizerError(f"{where}: post_processor must frame a text once, not twice; leave one out")
        return framing[0] if framing else Framing()
    if kind in ("BertProcessing", "RobertaProcessing"):
        cls, sep = int(processor["cls"][1]), int(processor["sep"][1])
        return Framing((cls,), (sep,), (sep,) if kind == "BertProcessing" else (sep, sep))
    if kind == "TemplateProcessing":
        return _template(processor)
    raise TokenizerError(f"{where}: post_processor.type={kind!r} is not known; it must be {_KNOWN}")


def _template(processor: Mapping[str, Any]) -> Framing:
    ids_of = {name: tuple(map(int, token["ids"])) for name, token in _named(processor["special_tokens"])}

    def ids(pieces: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        return tuple(i for piece in pieces for i in ids_of[piece["SpecialToken"]["id"]])

    single, pair = processor["single"], processor.get("pair") or []
    places = [i for i, piece in enumerate(single) if "Sequence" in piece]
    if len(places) != 1:
        raise ValueError(f"single must hold one sequence, not {len(places)}")
    texts = [i for i, piece in enumerate(pair) if "Sequence" in piece]
    between = ids(pair[texts[0] + 1 : texts[1]]) if len(texts) == 2 else ()
    return Framing(ids(single[: places[0]]), ids(single[places[0] + 1 :]), between)


def _named(special_tokens: Any) -> list[tuple[str, Any]]:
    # A mapping in the library's files, a list of objects in some older ones.
    return (
        list(special_tokens.items())
        if isinstance(special_tokens, dict)
        else [(t["id"], t) for t in special_tokens]
    )
